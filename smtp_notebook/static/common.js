// What every part shares. Text is set as text, never as HTML.

let numbers = 0;
const unique = (word) => `smtpnb-${word}-${(numbers += 1)}-${Math.random().toString(36).slice(2, 8)}`;

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") node.textContent = value;
    else if (name === "on") for (const [event, f] of Object.entries(value)) node.addEventListener(event, f);
    else if (name in node && !name.includes("-")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const button = (text, label, press, more = {}) =>
  make("button", { type: "button", text, "aria-label": label, title: label, on: { click: press }, ...more });

// Draw now and whenever one of the traits changes; what is returned ends that.
function follow(model, names, draw) {
  const event = names.map((name) => `change:${name}`).join(" ");
  model.on(event, draw);
  draw();
  return () => model.off(event, draw);
}

function bytes(count) {
  if (count < 1024) return `${count} B`;
  return count < 1048576 ? `${Math.round(count / 1024)} kB` : `${(count / 1048576).toFixed(1)} MB`;
}
