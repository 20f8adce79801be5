// Names with what they hold.

function render({ model, el }) {
  const list = make("dl", { className: "smtpnb-headers" });
  const empty = make("p", { className: "smtpnb-empty" });
  const scroll = make("div", { className: "smtpnb-scroll smtpnb-facts", role: "region", tabIndex: 0 }, list, empty);
  el.append(scroll);
  return follow(model, ["facts", "label", "empty", "height"], () => {
    const facts = model.get("facts");
    scroll.setAttribute("aria-label", model.get("label"));
    scroll.style.maxHeight = model.get("height") ? `${model.get("height")}px` : "";
    list.replaceChildren(...facts.flatMap(([name, value, none]) => [
      make("dt", { text: name }), make("dd", { text: value || none, className: value ? "" : "smtpnb-quiet" }),
    ]));
    list.hidden = !facts.length;
    empty.textContent = model.get("empty");
    empty.hidden = facts.length > 0;
  });
}

export default { render };
