// SPDX-License-Identifier: Apache-2.0
// What the page of a comparison can do: choose a module, filter and sort the rows that are there
// already, and draw the histogram of one. Without it the page shows all rows.
#pragma once

namespace halftone {

inline constexpr const char* kCompareScript = R"js(
const data = JSON.parse(document.getElementById('data').textContent);
const tensors = data.tensors;
const page = document.documentElement;
const table = document.querySelector('.scroll table');
const rows = [...table.tBodies[0].rows];
const kBadness = {fine: 0, incomparable: 1, imprecise: 2, underflow: 3, overflow: 4};
page.classList.add('js');

const set = (element, attributes) => {
  for (const [name, value] of Object.entries(attributes))
    if (value !== null) element.setAttribute(name, value);
  return element;
};
const make = (tag, attributes = {}, ...children) => {
  const element = set(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};
const draw = (tag, attributes = {}, ...children) => {
  const element = set(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes);
  element.append(...children);
  return element;
};
const mark = (verdict) => make('span', {class: 'mark ' + verdict, 'aria-hidden': 'true'});
const power = (exponent) => {
  const whole = Math.abs(exponent - Math.round(exponent)) < 1e-9;
  if (!whole) return String(+Math.pow(2, exponent).toPrecision(6));
  const raised = (c) => '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'['-0123456789'.indexOf(c)];
  return '2' + String(Math.round(exponent)).replace(/./g, raised);
};
const number = (x) => x === null ? 'not finite' : x === 0 ? '0' :
  Math.abs(x) < 1e-3 || Math.abs(x) >= 1e4 ? x.toExponential(1) : String(+x.toPrecision(3));
const percent = (share) => {
  if (!(share > 0)) return '0 %';
  if (share < 1e-4) return '<0.01 %';
  if (share >= 1) return '100 %';
  if (share >= 0.9995) return '>99.9 %';
  return (100 * share).toFixed(share < 1e-3 ? 2 : 1) + ' %';
};

// ---- which rows

const chosen = {path: '', text: '', verdicts: null, kinds: null};

function fits(tensor) {
  const {path, text} = chosen;
  if (path && tensor.module !== path && !tensor.module.startsWith(path + '.')) return false;
  if (chosen.verdicts && !chosen.verdicts.has(tensor.verdict)) return false;
  if (chosen.kinds && !chosen.kinds.has(tensor.kind)) return false;
  const words = (tensor.name + ' ' + tensor.operation + ' ' + tensor.dtype).toLowerCase();
  return text.split(/\s+/).every((word) => words.includes(word));
}

function showRows() {
  let shown = 0;
  for (const row of rows) {
    row.hidden = !fits(tensors[row.dataset.i]);
    shown += row.hidden ? 0 : 1;
    if (panels.has(row)) panels.get(row).row.hidden = row.hidden;
  }
  document.querySelector('.shown').textContent = (shown === tensors.length
    ? 'All ' + shown + ' tensors' : shown + ' of ' + tensors.length + ' tensors') +
    (chosen.path ? ' in ' + chosen.path : '');
}

/// A row of buttons, each of which takes its value in or out.
function toggles(selector, choose) {
  const buttons = [...document.querySelectorAll(selector + ' button')];
  for (const button of buttons)
    button.addEventListener('click', () => {
      button.setAttribute('aria-pressed', button.getAttribute('aria-pressed') !== 'true');
      choose(buttons.filter((one) => one.getAttribute('aria-pressed') === 'true')
        .map((one) => one.value));
    });
}

toggles('.verdicts', (values) => { chosen.verdicts = new Set(values); showRows(); });
toggles('.kinds', (values) => { chosen.kinds = new Set(values); showRows(); });
toggles('.formats', (values) => {
  table.className = values.map((i) => 'show' + i).join(' ');
  resizePanels();
});
document.querySelector('.controls input').addEventListener('input', (event) => {
  chosen.text = event.target.value.trim().toLowerCase();
  showRows();
});

// ---- order

function sortRows(header) {
  const key = header.dataset.key;
  const ascending = header.getAttribute('aria-sort') === 'descending' || key === 'cosine' &&
    header.getAttribute('aria-sort') !== 'ascending';
  for (const other of table.tHead.querySelectorAll('th')) other.removeAttribute('aria-sort');
  header.setAttribute('aria-sort', ascending ? 'ascending' : 'descending');
  const value = (row) => key === 'worst' ? -row.dataset.i : tensors[row.dataset.i][key] ?? Infinity;
  const sign = ascending ? 1 : -1;
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return sign * (typeof x === 'string' ? x.localeCompare(y) : x === y ? 0 : x - y);
  });
  for (const row of rows) {
    table.tBodies[0].append(row);
    if (panels.has(row)) row.after(panels.get(row).row);
  }
}
for (const header of table.tHead.querySelectorAll('th[data-key]')) {
  const button = make('button', {type: 'button'}, ...header.childNodes);
  header.append(button);
  button.addEventListener('click', () => sortRows(header));
}

// ---- modules

function moduleTree() {
  const node = (name, path) =>
    ({name, path, parts: new Map(), all: 0, bad: 0, worst: 'fine', order: Infinity});
  const top = node('model', '');
  for (const tensor of tensors) {
    let at = top;
    const way = [top];
    for (const part of tensor.module ? tensor.module.split('.') : []) {
      if (!at.parts.has(part))
        at.parts.set(part, node(part, at.path ? at.path + '.' + part : part));
      at = at.parts.get(part);
      way.push(at);
    }
    for (const one of way) {
      one.all += 1;
      one.bad += kBadness[tensor.verdict] > 1 ? 1 : 0;
      one.order = Math.min(one.order, tensor.order);
      if (kBadness[tensor.verdict] > kBadness[one.worst]) one.worst = tensor.verdict;
    }
  }
  return top;
}

function itemOf(node, level) {
  const parts = [...node.parts.values()].sort((a, b) => a.order - b.order);
  const count = make('span', {class: 'count'});
  if (node.bad) count.append(make('em', {}, String(node.bad)), ' of ');
  count.append(String(node.all));
  const item = make('li', {role: 'treeitem', 'aria-level': level, tabindex: level === 1 ? 0 : -1,
    'aria-selected': level === 1, 'aria-expanded': parts.length ? level <= 2 : null,
    'aria-label': node.name + ', ' + (node.bad ? node.bad + ' of ' : '') + node.all + ' tensors' +
      (node.bad ? ' not fine, worst: ' + node.worst : ', none wrong')},
    make('div', {class: 'node'},
      make('span', {class: parts.length ? 'twist' : 'twist leaf'}), mark(node.worst),
      make('b', {title: node.path || 'all modules'}, node.name), count));
  item.dataset.path = node.path;
  if (parts.length)
    item.append(make('ul', {role: 'group'}, ...parts.map((part) => itemOf(part, level + 1))));
  return item;
}

const tree = document.querySelector('.tree');
tree.append(make('ul', {role: 'tree', 'aria-label': 'Modules'}, itemOf(moduleTree(), 1)));

function choose(item) {
  for (const other of tree.querySelectorAll('li')) {
    other.setAttribute('aria-selected', other === item);
    other.tabIndex = other === item ? 0 : -1;
  }
  chosen.path = item.dataset.path;
  showRows();
}
const expand = (item, wide) =>
  item.hasAttribute('aria-expanded') && item.setAttribute('aria-expanded', wide);
const isOpen = (item) => item.getAttribute('aria-expanded') === 'true';

tree.addEventListener('click', (event) => {
  const item = event.target.closest('li');
  if (!item) return;
  if (event.target.closest('.twist')) expand(item, !isOpen(item));
  else { choose(item); item.focus(); }
});
tree.addEventListener('keydown', (event) => {
  const item = event.target.closest('li');
  const items = [...tree.querySelectorAll('li')].filter((one) => one.offsetParent !== null);
  const to = (one) => { if (one) { choose(one); one.focus(); } };
  const at = items.indexOf(item);
  const steps = {ArrowDown: () => to(items[at + 1]), ArrowUp: () => to(items[at - 1]),
    Home: () => to(items[0]), End: () => to(items[items.length - 1]),
    ArrowRight: () => isOpen(item) ? to(item.querySelector('li')) : expand(item, true),
    ArrowLeft: () => isOpen(item) ? expand(item, false) : to(item.parentElement.closest('li')),
    Enter: () => choose(item), ' ': () => choose(item)};
  if (!steps[event.key]) return;
  event.preventDefault();
  steps[event.key]();
});
)js";

/// Behind all other parts.
inline constexpr const char* kStartScript = R"js(
// ---- the lines that mend it

for (const button of document.querySelectorAll('.mend button'))
  button.addEventListener('click', async () => {
    const text = document.querySelector('.mend pre');
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = 'copied';
    } catch (refused) {
      getSelection().selectAllChildren(text);
      button.textContent = 'selected';
    }
    setTimeout(() => { button.textContent = 'copy'; }, 1500);
  });

showRows();
if (rows.length) toggleRow(rows[0]);
page.dataset.drawn = rows.length;
)js";

}  // namespace halftone
