// Files to take along. Each comes as a message of its own when it is asked for, and goes to the view that asked.

function save(name, octets) {
  // A stranger's file: of no type that a browser would open with this page's rights.
  const url = URL.createObjectURL(new Blob([octets], { type: "application/octet-stream" }));
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

function render({ model, el }) {
  const list = make("ul", { className: "smtpnb-files", role: "list" });
  const said = make("div", { className: "smtpnb-quiet", role: "status" });
  el.append(make("div", { className: "smtpnb-downloads" }, list, said));
  const waiting = new Map();

  function say() {
    said.textContent = [...waiting.values()].map((name) => `Waiting for ${name} …`).join(" ");
  }
  function ask(file) {
    const token = unique("take");
    waiting.set(token, file.name);
    say();
    model.send({ type: "get", id: file.id, token });
  }
  function told(message, buffers) {
    if (!waiting.delete(message.token)) return;
    say();
    if (message.type === "file") save(message.name, buffers[0]);
  }
  function item(file) {
    const face = file.id ? make("button", {
      type: "button", className: "smtpnb-button", text: file.face, "aria-label": `${file.face}: ${file.name}`, on: { click: () => ask(file) },
    }) : null;
    return make(
      "li", { className: "smtpnb-file" },
      make("span", { className: "smtpnb-filename", text: file.name }), make("span", { className: "smtpnb-quiet", text: file.said }), face);
  }
  model.on("msg:custom", told);
  const ended = follow(model, ["files", "label"], () => {
    list.setAttribute("aria-label", model.get("label"));
    list.replaceChildren(...model.get("files").map(item));
  });
  return () => { model.off("msg:custom", told); ended(); };
}

export default { render };
