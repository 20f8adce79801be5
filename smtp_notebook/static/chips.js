// Recipients as chips. What is typed or pasted goes to the kernel, which splits and checks it.

function whole(text) {
  // A separator inside quotes or angle brackets belongs to the name.
  return (text.match(/(?<!\\)"/g) || []).length % 2 === 0 && text.lastIndexOf("<") <= text.lastIndexOf(">");
}

function render({ model, el }) {
  const id = unique("chips"), said = unique("said");
  const list = make("ul", { className: "smtpnb-chiplist", role: "list" });
  const input = make("input", { id, type: "text", autocomplete: "off", spellcheck: false, "aria-describedby": said });
  const label = make("label", { htmlFor: id, className: "smtpnb-label" });
  const problem = make("div", { id: said, className: "smtpnb-problem", "aria-live": "polite" });
  const box = make("div", { className: "smtpnb-box", on: { click: (e) => e.target === box && input.focus() } }, list, input);
  el.append(make("div", { className: "smtpnb-field" }, label, make("div", { className: "smtpnb-control" }, box, problem)));
  let pending = [], timer = 0;

  function typed(text) {
    clearTimeout(timer);
    if (model.get("typed") === text) return;
    model.set("typed", text);
    model.save_changes();
  }
  function add(text) {
    if (!text.trim()) return;
    input.value = "";
    typed("");
    pending.push(text.trim());
    model.send({ type: "add", text });
    draw();
  }
  function edit(index, text) {
    add(input.value);
    model.send({ type: "remove", index, text });
    input.value = text;
    input.focus();
    input.select();
  }
  function chip({ text, problem: why }, index) {
    const change = make("button", {
      type: "button", className: "smtpnb-chiptext", text, title: why || `Change ${text}`, on: { click: () => edit(index, text) },
    });
    const remove = button("×", `Remove ${text}`, () => { model.send({ type: "remove", index, text }); input.focus(); });
    return make("li", { className: why ? "smtpnb-chip smtpnb-bad" : "smtpnb-chip" }, change, remove);
  }
  function draw() {
    const chips = model.get("chips");
    label.textContent = model.get("label");
    list.setAttribute("aria-label", `${model.get("label")}: ${chips.length}`);
    input.placeholder = chips.length || pending.length ? "" : model.get("hint");
    list.replaceChildren(
      ...chips.map(chip), ...pending.map((text) => make("li", { className: "smtpnb-chip smtpnb-pending", text })));
    const first = chips.find((c) => c.problem);
    problem.textContent = first ? first.problem : model.get("problem");
    input.setAttribute("aria-invalid", problem.textContent ? "true" : "false");
  }
  input.addEventListener("keydown", (event) => {
    const text = input.value;
    if ((event.key === "Enter" || ((event.key === "," || event.key === ";") && whole(text))) && text.trim()) {
      event.preventDefault();
      add(text);
    } else if (event.key === "Backspace" && !text && model.get("chips").length) {
      event.preventDefault();
      const index = model.get("chips").length - 1;
      edit(index, model.get("chips")[index].text);
    }
  });
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => typed(input.value), 150);
  });
  input.addEventListener("paste", (event) => {
    const text = event.clipboardData.getData("text");
    if (!/[;,\n\t]/.test(text)) return;
    event.preventDefault();
    add(input.value + text);
  });
  input.addEventListener("blur", () => add(input.value));
  const came = () => { pending = []; };
  model.on("change:chips", came);
  const told = (message) => {
    if (message.type !== "set") return;
    clearTimeout(timer);
    pending = [];
    input.value = "";
  };
  model.on("msg:custom", told);
  const ended = follow(model, ["chips", "label", "hint", "problem"], draw);
  return () => { clearTimeout(timer); model.off("change:chips", came); model.off("msg:custom", told); ended(); };
}

export default { render };
