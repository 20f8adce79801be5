// Code to take along.

function render({ model, el }) {
  const shown = make("pre", { className: "smtpnb-pre smtpnb-source", tabIndex: 0, "aria-label": "The same as code" });
  const said = make("span", { className: "smtpnb-quiet", role: "status" });
  async function copy() {
    try {
      await navigator.clipboard.writeText(model.get("code"));
      said.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(shown);
      said.textContent = "Selected: copy it with Ctrl+C or ⌘C.";
    }
  }
  const take = make("button", { type: "button", className: "smtpnb-button", text: "Copy", on: { click: copy } });
  const shut = make("button", {
    type: "button", className: "smtpnb-button", text: "Close", on: { click: () => { model.set("code", ""); model.save_changes(); } },
  });
  const box = make("div", { className: "smtpnb-code" }, make("div", { className: "smtpnb-actions" }, take, shut, said), shown);
  el.append(box);
  return follow(model, ["code"], () => {
    shown.textContent = model.get("code");
    box.hidden = !model.get("code");
    said.textContent = "";
  });
}

export default { render };
