// A password goes to the kernel as a message of its own: what a widget holds is saved with the notebook, this is not.

function render({ model, el }) {
  let number = 0; // of the question that is on the screen
  const id = unique("secret");
  const label = make("label", { htmlFor: id });
  const input = make("input", { id, type: "password", autocomplete: "off", className: "smtpnb-input" });
  const give = () => {
    const text = input.value;
    input.value = "";
    if (text) model.send({ type: "secret", text, number });
  };
  const use = make("button", { type: "button", className: "smtpnb-button smtpnb-primary", text: "Log in", on: { click: give } });
  const stop = make("button", {
    type: "button", className: "smtpnb-button", text: "Cancel",
    on: { click: () => { input.value = ""; model.send({ type: "cancel", number }); } },
  });
  const hint = make("p", { className: "smtpnb-quiet", text: "It stays in the kernel's memory and is not saved with the notebook." });
  const box = make("div", { className: "smtpnb-ask" }, label, make("div", { className: "smtpnb-actions" }, input, use, stop), hint);
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") give();
  });
  el.append(box);
  let was = false;
  function draw() {
    const open = model.get("opened");
    if (model.get("number") !== number) input.value = "";
    number = model.get("number");
    label.textContent = model.get("label");
    box.hidden = !open;
    if (open && !was) input.focus({ preventScroll: true });
    if (!open) input.value = "";
    was = open;
  }
  const ended = follow(model, ["opened", "label"], draw);
  return () => { input.value = ""; ended(); };
}

export default { render };
