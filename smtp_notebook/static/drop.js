// Files, dropped or chosen. They travel in pieces, each one asked for by the kernel: Jupyter drops messages above 10 MiB.
const PIECE = 1 << 20;

function render({ model, el }) {
  const waiting = new Map();
  const input = make("input", { type: "file", multiple: true, className: "smtpnb-hidden", tabIndex: -1, "aria-hidden": "true" });
  const list = make("ul", { className: "smtpnb-files", role: "list" });
  const choose = make("button", { type: "button", className: "smtpnb-button", text: "Choose files", on: { click: () => input.click() } });
  const hint = make("span", { className: "smtpnb-quiet" });
  const zone = make("div", { className: "smtpnb-drop", role: "group" }, choose, hint, input);
  const label = make("span", { className: "smtpnb-label" });
  const problem = make("div", { className: "smtpnb-problem", "aria-live": "polite" });
  el.append(make("div", { className: "smtpnb-field" }, label, make("div", { className: "smtpnb-control" }, zone, problem, list)));

  function offer(files) {
    for (const file of files) {
      const id = unique("file");
      waiting.set(id, file);
      model.send({ type: "begin", id, name: file.name, kind: file.type, size: file.size });
    }
  }
  async function piece({ id, at }) {
    const file = waiting.get(id);
    if (!file) return;
    try {
      const buffer = await file.slice(at, at + PIECE).arrayBuffer();
      model.send({ type: "piece", id, at }, undefined, [buffer]);
    } catch (error) {
      model.send({ type: "lost", id, why: String(error.message || error) });
    }
  }
  function told(message) {
    if (message.type === "next") piece(message);
    if (message.type === "over") waiting.delete(message.id);
  }
  function item(file, index) {
    const loading = file.received < file.size && !file.problem;
    return make(
      "li", { className: file.problem ? "smtpnb-file smtpnb-bad" : "smtpnb-file" },
      make("span", { className: "smtpnb-filename", text: file.name }),
      loading ? make("progress", { max: file.size, value: file.received, "aria-label": `Loading ${file.name}` })
        : make("span", { className: "smtpnb-quiet", text: bytes(file.size) }),
      button("×", `Remove ${file.name}`, () => model.send({ type: "remove", id: file.id, index })),
      file.problem ? make("div", { className: "smtpnb-problem", text: file.problem }) : null);
  }
  function draw() {
    label.textContent = model.get("label");
    zone.setAttribute("aria-label", model.get("label"));
    hint.textContent = model.get("hint");
    problem.textContent = model.get("problem");
    list.replaceChildren(...model.get("files").map(item));
  }
  const over = (inside) => (event) => {
    event.preventDefault();
    zone.classList.toggle("smtpnb-over", inside);
  };
  zone.addEventListener("dragenter", over(true));
  zone.addEventListener("dragover", over(true));
  zone.addEventListener("dragleave", over(false));
  zone.addEventListener("drop", (event) => { over(false)(event); event.stopPropagation(); offer(event.dataTransfer.files); });
  input.addEventListener("change", () => { offer(input.files); input.value = ""; });
  model.on("msg:custom", told);
  const ended = follow(model, ["files", "label", "hint", "problem"], draw);
  return () => { model.off("msg:custom", told); ended(); };
}

export default { render };
