// The body: a text area, buttons that write the marks of its format around what is selected, and texts to insert.
const MARKS = {
  markdown: { Bold: ["**", "**"], Italic: ["*", "*"], Link: ["[", "](https://)"], Heading: ["## ", ""], List: ["- ", ""], Quote: ["> ", ""] },
  html: {
    Bold: ["<strong>", "</strong>"], Italic: ["<em>", "</em>"], Link: ['<a href="https://">', "</a>"],
    Heading: ["<h2>", "</h2>"], List: ["<ul><li>", "</li></ul>"], Quote: ["<blockquote>", "</blockquote>"],
  },
  text: {},
};
const FACES = { Bold: "B", Italic: "I", Link: "Link", Heading: "H", List: "• List", Quote: "❝" };
const KEYS = { b: "Bold", i: "Italic", k: "Link" };
const LINEWISE = new Set(["Heading", "List", "Quote"]);

function render({ model, el }) {
  const id = unique("body"), said = unique("said");
  const label = make("label", { htmlFor: id, className: "smtpnb-label" });
  const area = make("textarea", { id, className: "smtpnb-area", spellcheck: true, "aria-describedby": said });
  const bar = make("div", { className: "smtpnb-bar", role: "toolbar" });
  const problem = make("div", { id: said, className: "smtpnb-problem", "aria-live": "polite" });
  const texts = make("div", { className: "smtpnb-bar smtpnb-inserts", role: "group", "aria-label": "Insert at the cursor" });
  el.append(make("div", { className: "smtpnb-field smtpnb-top" }, label, make("div", { className: "smtpnb-control" }, bar, texts, area, problem)));

  const marks = () => MARKS[model.get("format")] || {};
  function keep() {
    model.set("value", area.value);
    model.save_changes();
  }
  function mark(name) {
    const [before, after] = marks()[name];
    let { selectionStart: start, selectionEnd: end } = area;
    const linewise = LINEWISE.has(name) && !after;
    if (linewise) start = area.value.lastIndexOf("\n", start - 1) + 1;
    const chosen = area.value.slice(start, end);
    const made = linewise ? chosen.split("\n").map((line) => before + line).join("\n") : before + chosen + after;
    area.setRangeText(made, start, end, "end");
    if (!linewise) area.setSelectionRange(start + before.length, start + before.length + chosen.length);
    area.focus();
    keep();
  }
  function insert(text) {
    area.setRangeText(text, area.selectionStart, area.selectionEnd, "end");
    area.focus();
    keep();
  }
  const drawTexts = () => texts.replaceChildren(...model.get("inserts").map(([face, text]) =>
    make("button", { type: "button", className: "smtpnb-mark", text: face, title: `Insert ${text}`, on: { click: () => insert(text) } })));
  function draw() {
    label.textContent = model.get("label");
    area.placeholder = model.get("hint");
    area.rows = model.get("rows");
    bar.setAttribute("aria-label", `Format of ${model.get("label")}`);
    problem.textContent = model.get("problem");
    area.setAttribute("aria-invalid", model.get("problem") ? "true" : "false");
    const names = Object.keys(marks());
    if (bar.dataset.names !== model.get("format")) {
      bar.dataset.names = model.get("format");
      bar.replaceChildren(...names.map((name) => button(FACES[name], name, () => mark(name), { className: `smtpnb-mark smtpnb-${name.toLowerCase()}` })));
    }
    bar.hidden = !names.length;
    texts.hidden = !model.get("inserts").length;
    if (area.value !== model.get("value") && document.activeElement !== area) area.value = model.get("value");
  }
  area.addEventListener("input", keep);
  area.addEventListener("keydown", (event) => {
    const name = (event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && KEYS[event.key.toLowerCase()];
    if (name && marks()[name]) {
      event.preventDefault();
      event.stopPropagation();
      mark(name);
    }
  });
  // What code wrote wins over what is on the screen, even while the cursor stands in it.
  const set = () => { area.value = model.get("value"); };
  const told = (message) => message.type === "set" && set();
  model.on("msg:custom", told);
  const ends = [
    follow(model, ["inserts"], drawTexts),
    follow(model, ["value", "format", "label", "hint", "rows", "problem", "inserts"], draw),
  ];
  return () => { model.off("msg:custom", told); for (const end of ends) end(); };
}

export default { render };
