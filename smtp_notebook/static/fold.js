// A button that shows and hides what stands below it; the kernel does the hiding.

function render({ model, el }) {
  const press = () => { model.set("opened", !model.get("opened")); model.save_changes(); };
  const mark = make("span", { "aria-hidden": "true" });
  const name = make("span");
  el.append(make("button", { type: "button", className: "smtpnb-fold", on: { click: press } }, mark, name));
  const face = el.lastChild;
  return follow(model, ["opened", "label"], () => {
    mark.textContent = model.get("opened") ? "▾ " : "▸ ";
    name.textContent = model.get("label");
    face.setAttribute("aria-expanded", String(model.get("opened")));
  });
}

export default { render };
