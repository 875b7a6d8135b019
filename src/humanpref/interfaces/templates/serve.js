// Asks the endpoint for both orders of the answers and shows what it says. Texts only ever become
// text nodes.
const form = document.querySelector("form");
const said = document.getElementById("said");
const result = document.getElementById("result");
const SHOWN = { margin: 8, tie: 4 };
let asking = new AbortController();

function say(text, isError = false) {
  said.textContent = text;
  said.classList.toggle("error", isError);
}

// A result belongs to the texts above it: whoever changes them clears it.
function clear() {
  asking.abort();
  result.hidden = true;
  say("");
}

async function ask(pair, signal) {
  const headers = { "Content-Type": "application/json" };
  const options = { method: "POST", headers, body: JSON.stringify(pair), signal };
  const response = await fetch("judge", options).catch(() => {
    throw new Error("the server does not answer; is it still running?");
  });
  const answer = await response.json().catch(() => {
    throw new Error(`the server's answer is incomplete (status ${response.status})`);
  });
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function judge() {
  clear();
  asking = new AbortController();
  const { signal } = asking;
  const pair = Object.fromEntries(new FormData(form));
  // In a form's data, line breaks are CR LF.
  for (const name in pair) pair[name] = form.elements[name].value;
  const exchanged = { ...pair, response_a: pair.response_b, response_b: pair.response_a };
  say("Judging …");
  try {
    const first = await ask(pair, signal);
    const second = await ask(exchanged, signal);
    if (!signal.aborted) show(first, second);
  } catch (error) {
    if (!signal.aborted) say(`Not judged: ${error.message}`, true);
  }
}

const percent = share => `${(100 * share).toFixed(1)}%`;

function cell(text) {
  const made = document.createElement("td");
  made.textContent = text;
  return made;
}

function show(first, second) {
  const orders = {
    a: [first.p_a, second.p_b],
    b: [first.p_b, second.p_a],
    tie: [first.p_tie, second.p_tie],
  };
  const mean = {};
  for (const [verdict, both] of Object.entries(orders)) {
    mean[verdict] = (both[0] + both[1]) / 2;
    const bar = cell("");
    bar.className = "bar";
    bar.append(document.createElement("div"));
    bar.firstChild.style.backgroundSize = `${100 * mean[verdict]}% 100%`;
    const row = document.querySelector(`#verdict .${verdict}`);
    const numbers = [mean[verdict], ...both].map(percent).map(cell);
    row.replaceChildren(row.firstElementChild, bar, ...numbers);
  }
  document.getElementById("cut").textContent =
    first.cut || second.cut
      ? "A text was too long: the model read only a part of it."
      : "Nothing was cut: the model read the texts in full.";
  const unit = "and by how much, in nats";
  list("margin", first.margin_shares, `What spoke for A or B, ${unit}`, "for A", "for B");
  list("tie", first.tie_shares, `What spoke for a tie or against, ${unit}`, "for a tie", "against");
  result.hidden = false;
  say(summary(mean));
}

function summary({ a, b, tie }) {
  if (tie > a && tie > b) return `Most likely a tie: ${percent(tie)}.`;
  if (a === b) return `A and B are equally likely: ${percent(a)} each.`;
  const [name, share] = a > b ? ["A", a] : ["B", b];
  return `People most likely prefer ${name}: ${percent(share)}.`;
}

function plain(name) {
  const words = name.replace(/_difference$/, "").replace("log_", "").replaceAll("_", " ");
  return words.replace(/ distance$/, ", how unequal");
}

function list(id, shares, caption, above, below) {
  const table = document.getElementById(id);
  const sorted = Object.entries(shares).filter(([, share]) => share !== 0);
  sorted.sort((one, other) => Math.abs(other[1]) - Math.abs(one[1]));
  const rows = sorted.map(([name, share]) => [plain(name), share]);
  const others = rows.slice(SHOWN[id]);
  if (others.length > 1) {
    const sum = others.reduce((total, [, share]) => total + share, 0);
    rows.splice(SHOWN[id], others.length, [`${others.length} others together`, sum]);
  }
  table.hidden = !rows.length;
  table.caption.textContent = caption;
  table.tBodies[0].replaceChildren(
    ...rows.map(([name, share]) => {
      const row = document.createElement("tr");
      const sign = share > 0 ? "+" : "−";
      const size = Math.abs(share).toFixed(3);
      row.append(cell(name), cell(share > 0 ? above : below), cell(sign + size));
      return row;
    })
  );
}

form.addEventListener("input", clear);
form.addEventListener("submit", event => {
  event.preventDefault();
  judge();
});
form.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    judge();
  }
});
