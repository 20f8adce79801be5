// Rows of cells, one of them chosen. The kernel gives a window of them; the rest is asked for.

function render({ model, el }) {
  const head = make("thead", { role: "rowgroup" });
  const body = make("tbody", { role: "rowgroup" });
  const table = make("table", { className: "smtpnb-grid", role: "grid" }, head, body);
  const empty = make("p", { className: "smtpnb-empty" });
  const more = make("button", { type: "button", className: "smtpnb-button", on: { click: () => model.send({ type: "more" }) } });
  const scroll = make("div", { className: "smtpnb-scroll" }, table);
  const said = make("div", { className: "smtpnb-hidden", role: "status" });
  el.append(make("div", { className: "smtpnb-list" }, scroll, empty, more, said));
  const keys = new WeakMap();
  let timer = 0, known = null;

  function choose(id, focus) {
    model.set("selected", id);
    model.save_changes();
    model.send({ type: "choose", id });
    draw();
    if (focus) body.querySelector("[aria-selected=true]")?.focus();
  }
  function line(row, names, key) {
    const cells = row.cells.map((text, at) => make("td", { role: "gridcell", text, "data-name": names[at] || "" }));
    const node = make("tr", { role: "row", "data-id": row.id }, ...cells);
    keys.set(node, key);
    return node;
  }
  // A row that is still there keeps its element: what is pressed or focused while others come stays so.
  function fill(rows, names, selected) {
    const old = new Map();
    for (const node of body.children) old.set(keys.get(node), [...(old.get(keys.get(node)) || []), node]);
    const fresh = rows.map((row) => {
      const key = JSON.stringify([names, row]);
      return old.get(key)?.shift() || line(row, names, key);
    });
    for (const node of [...old.values()].flat()) node.remove();
    let at = body.firstChild;
    fresh.forEach((node, place) => {
      if (node === at) at = at.nextSibling;
      else body.insertBefore(node, at);
      const row = rows[place], on = row.id === selected;
      node.className = row.mark ? `smtpnb-row smtpnb-${row.mark}` : "smtpnb-row";
      node.setAttribute("aria-selected", String(on));
      node.tabIndex = on || (place === 0 && !selected) ? 0 : -1;
    });
  }
  // How many there are is said once they stop coming.
  function tell(total) {
    if (known === total) return;
    clearTimeout(timer);
    const text = `${model.get("label")}: ${total.toLocaleString("en")}`;
    if (known !== null) timer = setTimeout(() => { said.textContent = text; }, 1000);
    known = total;
  }
  function draw() {
    const names = model.get("columns"), rows = model.get("rows"), chosen = model.get("selected");
    const selected = rows.some((row) => row.id === chosen) ? chosen : "";
    const focused = body.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    table.setAttribute("aria-label", model.get("label"));
    table.setAttribute("aria-rowcount", String(model.get("total") + 1));
    head.replaceChildren(make("tr", { role: "row" }, ...names.map((text) => make("th", { role: "columnheader", scope: "col", text }))));
    fill(rows, names, selected);
    if (focused !== null) body.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    tell(model.get("total"));
    scroll.style.maxHeight = model.get("height") ? `${model.get("height")}px` : "";
    scroll.hidden = !rows.length;
    empty.textContent = model.get("empty");
    empty.hidden = rows.length > 0;
    const rest = model.get("total") - rows.length;
    more.textContent = `Show more (${rest.toLocaleString("en")} left)`;
    more.hidden = rest <= 0;
  }
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) choose(row.dataset.id, true);
  });
  body.addEventListener("keydown", (event) => {
    const rows = model.get("rows"), at = rows.findIndex((row) => row.id === event.target.dataset.id);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") choose(event.target.dataset.id, true);
    else if (next === undefined) return;
    else if (rows[next]) choose(rows[next].id, true);
    event.preventDefault();
    event.stopPropagation();
  });
  const ended = follow(model, ["columns", "rows", "total", "selected", "label", "empty", "height"], draw);
  return () => { clearTimeout(timer); ended(); };
}

export default { render };
