// A mail as several readers see it. It is nobody's friend: its frame has an empty sandbox and a policy that loads nothing.
const TABS = [
  ["desktop", "Desktop"], ["phone", "Phone"], ["dark", "Dark"], ["images", "Images off"],
  ["text", "Text"], ["source", "Source"], ["headers", "Headers"],
];
const FRAMES = { desktop: 600, phone: 360, dark: 600, images: 600 };
// A frame that is wider than its column is drawn smaller, down to this; beyond it scrolls.
const LEAST = 0.45;

function dressed(page, tab) {
  const dark = tab === "dark";
  const made = page
    .replaceAll("(smtpnb:dark)", dark ? "(min-width:0)" : "(max-width:0)")
    .replaceAll("(smtpnb:light)", dark ? "(max-width:0)" : "(min-width:0)")
    .replaceAll("smtpnb-scheme", dark ? "dark" : "light");
  return tab === "images" ? made.replace("img-src data:", "img-src 'none'") : made;
}

function render({ model, el }) {
  const prefix = unique("pane");
  const tabs = make("div", { className: "smtpnb-tabs", role: "tablist", "aria-label": "How the mail is shown" });
  const panel = make("div", { className: "smtpnb-panel", role: "tabpanel", id: `${prefix}-panel` });
  const notes = make("ul", { className: "smtpnb-notes", "aria-label": "What to look at" });
  const empty = make("p", { className: "smtpnb-empty" });
  const stage = make("div", { className: "smtpnb-stage", tabIndex: 0, role: "group", "aria-label": "The mail" });
  panel.append(empty, stage);
  el.append(make("section", { className: "smtpnb-pane", "aria-label": "Preview" }, tabs, panel, notes));
  let frame = null;

  function choose(tab, focus) {
    model.set("tab", tab);
    model.save_changes();
    draw();
    if (focus) tabs.querySelector(`[data-tab=${tab}]`).focus();
  }
  for (const [tab, name] of TABS) {
    tabs.append(make("button", {
      type: "button", role: "tab", text: name, id: `${prefix}-${tab}`, "data-tab": tab, "aria-controls": `${prefix}-panel`,
      on: { click: () => choose(tab) },
    }));
  }
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = TABS.findIndex(([tab]) => tab === model.get("tab"));
    const next = step ? TABS[(at + step + TABS.length) % TABS.length] : { Home: TABS[0], End: TABS.at(-1) }[event.key];
    if (!next) return;
    event.preventDefault();
    event.stopPropagation();
    choose(next[0], true);
  });

  function mail(tab) {
    const source = dressed(model.get("page"), tab), shape = `${tab} ${model.get("height")}`;
    if (frame && frame.srcdoc === source && frame.dataset.shape === shape) return;
    const next = make("iframe", { className: "smtpnb-frame", title: "The mail's body" });
    next.setAttribute("sandbox", "");
    next.dataset.shape = shape;
    next.style.width = `${FRAMES[tab]}px`;
    next.style.background = tab === "dark" ? "#121212" : "#fff";
    next.srcdoc = source;
    // The old one stays until the new one is there, so that nothing flickers while somebody types.
    const old = frame && frame.isConnected && frame.dataset.shape === shape ? frame : null;
    if (!old) stage.replaceChildren(next);
    else {
      next.classList.add("smtpnb-coming");
      next.addEventListener("load", () => {
        if (next !== frame) return; // a newer one is on its way
        next.classList.remove("smtpnb-coming");
        for (const other of [...stage.children]) if (other !== frame) other.remove();
      }, { once: true });
      stage.append(next);
    }
    frame = next;
    fit();
  }
  function fit() {
    const height = model.get("height"), room = stage.clientWidth;
    for (const each of stage.querySelectorAll("iframe")) {
      const width = parseInt(each.style.width, 10);
      const scale = room ? Math.max(LEAST, Math.min(1, room / width)) : 1;
      each.style.height = `${height / scale}px`;
      each.style.transform = scale < 1 ? `scale(${scale})` : "";
      each.style.marginLeft = scale < 1 ? "0" : "auto";
      // What is drawn smaller still takes its full place: the margins give the rest of it back.
      each.style.marginRight = scale < 1 ? `${-width * (1 - scale)}px` : "auto";
      each.style.marginBottom = `${-(height / scale) * (1 - scale)}px`;
    }
  }
  function headers() {
    const rows = model.get("headers").map(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]);
    stage.replaceChildren(make("dl", { className: "smtpnb-headers" }, ...rows.flat()));
  }
  function draw() {
    const tab = model.get("tab"), nothing = model.get("empty");
    for (const each of tabs.children) {
      const on = each.dataset.tab === tab;
      each.setAttribute("aria-selected", String(on));
      each.tabIndex = on ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `${prefix}-${tab}`);
    empty.textContent = nothing;
    empty.hidden = !nothing;
    stage.hidden = Boolean(nothing);
    if (!nothing) {
      if (tab in FRAMES && model.get("page")) mail(tab);
      else if (tab === "headers") headers();
      else {
        const text = tab === "source" ? model.get("source") : model.get("text");
        const shown = make("pre", { className: tab === "source" ? "smtpnb-pre smtpnb-source" : "smtpnb-pre", text });
        if (tab === "phone") shown.style.maxWidth = "360px";
        stage.replaceChildren(shown);
      }
    }
    if (stage.firstChild !== frame && !stage.contains(frame)) frame = null;
    const found = nothing ? [] : model.get("notes");
    notes.replaceChildren(...found.map((text) => make("li", { text })));
    notes.hidden = !found.length;
  }
  const sized = new ResizeObserver(fit);
  sized.observe(stage);
  const ended = follow(model, ["page", "text", "source", "headers", "notes", "empty", "tab", "height"], draw);
  return () => { sized.disconnect(); ended(); };
}

export default { render };
