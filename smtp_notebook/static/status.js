// What happened last, and how far it is.

function render({ model, el }) {
  const pill = make("span", { className: "smtpnb-pill" });
  const text = make("span", { className: "smtpnb-said" });
  const fix = make("div", { className: "smtpnb-fix" });
  const line = make("div", { role: "status", "aria-live": "polite" }, pill, text, fix);
  const name = unique("meter");
  const far = make("span", { id: name, className: "smtpnb-quiet" });
  const meter = make("progress", { "aria-labelledby": name });
  const gauge = make("div", { className: "smtpnb-gauge" }, meter, far);
  el.append(make("div", { className: "smtpnb-status" }, line, gauge));
  return follow(model, ["state", "text", "fix", "value", "most", "far"], () => {
    const state = model.get("state");
    pill.textContent = state.replaceAll("_", " ");
    pill.className = `smtpnb-pill smtpnb-is-${state}`;
    pill.hidden = !state;
    text.textContent = model.get("text");
    fix.textContent = model.get("fix");
    fix.hidden = !model.get("fix");
    gauge.hidden = !model.get("most");
    meter.max = model.get("most") || 1;
    meter.value = model.get("value");
    far.textContent = model.get("far");
  });
}

export default { render };
