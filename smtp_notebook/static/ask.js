// One question, asked once, with what it is about. Escape says no.

function render({ model, el }) {
  const title = unique("ask"), about = unique("about");
  const question = make("p", { id: title, className: "smtpnb-question" });
  const facts = make("dl", { id: about, className: "smtpnb-headers" });
  let number = 0; // of the question that is on the screen: a click on it answers no newer one
  const answer = (yes) => () => model.send({ type: "answer", yes, number });
  const yes = make("button", { type: "button", className: "smtpnb-button smtpnb-primary", on: { click: answer(true) } });
  const no = make("button", { type: "button", className: "smtpnb-button", on: { click: answer(false) } });
  const box = make(
    "div", { className: "smtpnb-ask", role: "alertdialog", "aria-labelledby": title, "aria-describedby": about, tabIndex: -1 },
    question, facts, make("div", { className: "smtpnb-actions" }, yes, no));
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    answer(false)();
  });
  el.append(box);
  let before = null, was = false;
  function draw() {
    const open = model.get("opened");
    number = model.get("number");
    question.textContent = model.get("question");
    facts.replaceChildren(...model.get("facts").flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
    yes.textContent = model.get("yes");
    no.textContent = model.get("no");
    box.hidden = !open;
    if (open && !was) {
      before = document.activeElement;
      box.focus({ preventScroll: true });
      box.scrollIntoView({ block: "nearest" });
    } else if (!open && was && before?.isConnected) before.focus({ preventScroll: true });
    was = open;
  }
  return follow(model, ["opened", "question", "facts", "yes", "no"], draw);
}

export default { render };
