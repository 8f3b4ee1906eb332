// SPDX-License-Identifier: Apache-2.0
// The histogram of a tensor on the page of a comparison, against the range of a format at a loss
// scale. A part of compare_script_impl.h, whose functions it uses.
#pragma once

namespace halftone {

inline constexpr const char* kHistogramScript = R"js(
// ---- what a format does to a tensor

/// The ends of the format's range, as powers of two of the tensor's own values.
function rangeOf(format, tensor, scale) {
  if (format.scaling === 'none')
    return {flush: format.flushed_up_to - scale, normal: format.min_exponent - scale,
      over: format.overflows_from - scale};
  const largest = Math.log2(tensor.max_abs);  // it becomes the format's largest number
  const shift = format.is_integer ? largest : largest - format.max;
  const flush = format.flushed_up_to + shift;
  return {flush, normal: format.is_integer ? flush : format.min_exponent + shift, over: Infinity};
}

/// The share of 2^e <= |x| < 2^(e+1) that lies below 2^edge, of numbers that are spread evenly.
const below = (e, edge) => Math.min(1, Math.max(0, Math.pow(2, edge - e) - 1));

function sharesIn(tensor, range) {
  const {first, counts, zeros, non_finite: bad} = tensor.exponents;
  const shares = {flushed: 0, subnormal: 0, overflows: 0};
  let all = zeros + bad;
  counts.forEach((count, i) => {
    const flushed = below(first + i, range.flush);
    all += count;
    shares.flushed += count * flushed;
    shares.subnormal += count * Math.max(0, below(first + i, range.normal) - flushed);
    shares.overflows += count * (1 - below(first + i, range.over));
  });
  for (const name in shares) shares[name] = all ? shares[name] / all : 0;
  return shares;
}

const zoneOf = (exponent, range) => exponent < range.flush ? 'flushed' :
  exponent < range.normal ? 'subnormal' : exponent < range.over ? 'normal' : 'overflows';

// ---- the histogram of a tensor

const kHeight = 230, kLeft = 58, kFloor = 196, kTop = 22;

const pictureOf = (width, height, label) => draw('svg',
  {viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': label});

/// Where powers of two and shares stand in a picture of `width`.
function frameOf(tensor, state, width) {
  const {first, counts, zeros, non_finite: bad} = tensor.exponents;
  const start = rangeOf(data.formats[state.format], tensor, state.present);
  const end = first + counts.length;
  const most = Number.isFinite(start.over) ? Math.ceil(start.over) : end;
  const low = Math.max(Math.min(first, Math.floor(start.flush)), first - 16) - 2;
  const high = Math.min(Math.max(end, most), end + 16) + 2;
  const right = width - 8;
  const all = counts.reduce((sum, one) => sum + one, zeros + bad);
  const shares = counts.map((count) => count / all);
  const floor = Math.floor(Math.log10(Math.min(...shares.filter((share) => share > 0))) - 0.01);
  const top = Math.max(...shares) * 1.08;
  const height = (share) => state.log ? 1 - Math.log10(share) / floor : share / top;
  const step = (right - kLeft) / (high - low);
  return {first, shares, low, high, right, floor, top, step,
    x: (exponent) => kLeft + step * (Math.min(high, Math.max(low, exponent)) - low),
    y: (share) => share <= 0 ? kFloor : kFloor - (kFloor - kTop) * height(share)};
}

function addZones(picture, frame, range, format) {
  const {x, low, high} = frame;
  const zones = [['flushed', 'flushed', low, range.flush],
    ['subnormal', 'subnormal', range.flush, range.normal],
    ['normal', format.is_integer ? 'integers' : 'normal', range.normal, range.over],
    ['overflows', 'overflows', range.over, high]];
  for (const [kind, name, from, to] of zones) {
    const [a, b] = [x(from), x(to)];
    if (b - a < 1) continue;
    picture.append(draw('rect',
      {class: 'zone ' + kind, x: a, y: kTop - 18, width: b - a, height: kFloor - kTop + 18}));
    if (b - a > 58)
      picture.append(draw('text', {class: 'zone-name', x: (a + b) / 2, y: kTop - 5}, name));
  }
}

function addTicks(picture, frame, isLogarithmic) {
  const {x, y, low, high, right, floor, top, step} = frame;
  const ticks = isLogarithmic ? Array.from({length: -floor + 1}, (_, i) => Math.pow(10, -i))
    : [0, 0.25, 0.5, 0.75, 1].map((part) => part * top / 1.08);
  const skip = isLogarithmic ? Math.ceil(ticks.length / 6) : 1;
  for (const share of ticks.filter((_, i) => i % skip === 0)) {
    const label = isLogarithmic && share < 1e-3 ? '10' + power(Math.log10(share) + 2).slice(1)
      : +(100 * share).toPrecision(2);
    picture.append(draw('line', {class: 'grid', x1: kLeft, x2: right, y1: y(share), y2: y(share)}),
      draw('text', {class: 'ytick', x: kLeft - 7, y: y(share) + 4}, label + ' %'));
  }
  const every = [1, 2, 4, 8, 16, 32].find((one) => one * step >= 46) || 64;
  for (let e = Math.ceil(low / every) * every; e <= high; e += every)
    picture.append(draw('line', {class: 'base', x1: x(e), x2: x(e), y1: kFloor, y2: kFloor + 4}),
      draw('text', {class: 'xtick', x: x(e), y: kFloor + 18}, power(e)));
}

function addColumns(picture, frame, range) {
  const {first, shares, x, y, step} = frame;
  shares.forEach((share, i) => {
    if (share === 0) return;
    const e = first + i;
    const zone = zoneOf(e + 0.5, range);
    picture.append(draw('rect', {class: 'column ' + zone, x: x(e) + Math.min(0.5, step / 8),
      width: Math.max(1, step - Math.min(1, step / 4)), y: Math.min(y(share), kFloor - 1),
      height: Math.max(1, kFloor - y(share))},
      draw('title', {}, `${power(e)} to ${power(e + 1)}: ${percent(share)}, ${zone}`)));
  });
}

function histogram(tensor, state, width) {
  const format = data.formats[state.format];
  const range = rangeOf(format, tensor, state.scale);
  const frame = frameOf(tensor, state, width);
  const picture = pictureOf(width, kHeight,
    `Values of ${tensor.name} by power of two, against the range of ${state.format}`);
  addZones(picture, frame, range, format);
  addTicks(picture, frame, state.log);
  addColumns(picture, frame, range);
  for (const edge of [range.flush, range.normal, range.over])
    if (edge > frame.low && edge < frame.high)
      picture.append(draw('line',
        {class: 'edge', x1: frame.x(edge), x2: frame.x(edge), y1: kTop - 18, y2: kFloor}));
  picture.append(draw('line', {class: 'base', x1: kLeft, x2: frame.right, y1: kFloor, y2: kFloor}));
  return picture;
}

// ---- the scale

const kCurve = 66;

/// Shares that are flushed and that overflow, over the scales of the slider.
function scaleCurve(tensor, state, width) {
  const format = data.formats[state.format];
  const [left, right] = [8, width - 8];
  const x = (scale) => left + (right - left) * (scale - state.low) / (state.high - state.low);
  const height = (share) => !state.log ? share
    : share > 0 ? Math.max(0, 1 + Math.log10(share) / 4) : 0;
  const y = (share) => kCurve - 4 - (kCurve - 10) * height(share);
  const picture = pictureOf(width, kCurve,
    'Share that is flushed and share that overflows, by loss scale');
  const {least_scale: least, most_scale: most} = data.judgement;
  if (state.format === data.format && least !== null) {
    const to = most === null ? state.high : Math.min(Math.log2(most), state.high);
    if (to >= Math.log2(least))
      picture.append(draw('rect', {class: 'band', x: x(Math.log2(least)), y: 2,
        width: Math.max(2, x(to) - x(Math.log2(least))), height: kCurve - 6}));
  }
  for (const share of state.log ? [1, 0.01] : [1, 0.5])
    picture.append(draw('line', {class: 'grid', x1: left, x2: right, y1: y(share), y2: y(share)}),
      draw('text', {x: left + 4, y: y(share) + 12}, 100 * share + ' %'));
  picture.append(draw('line', {class: 'base', x1: left, x2: right, y1: y(0), y2: y(0)}));
  for (const name of ['flushed', 'overflows']) {
    const points = [];
    for (let scale = state.low; scale <= state.high; ++scale) {
      const share = sharesIn(tensor, rangeOf(format, tensor, scale))[name];
      points.push(x(scale).toFixed(1) + ' ' + y(share).toFixed(1));
    }
    picture.append(draw('path', {class: 'line ' + name, d: 'M' + points.join('L')}));
  }
  const now = x(state.scale);
  picture.append(draw('line', {class: 'now', x1: now, x2: now, y1: 0, y2: kCurve}));
  return picture;
}

function sentence(tensor, state) {
  const format = data.formats[state.format];
  const shares = sharesIn(tensor, rangeOf(format, tensor, state.scale));
  const at = state.isScaled && format.scaling === 'none'
    ? `At a loss scale of ${power(state.scale)}, ` : 'Of all values, ';
  const is = state.format === tensor.dtype;
  const [flushes, stores, overflow] = is ? ['flushes', 'stores', 'overflow']
    : ['would flush', 'store', 'would overflow'];
  const kept = format.is_integer ? ''
    : `, ${stores} ${percent(shares.subnormal)} as subnormal numbers`;
  return `${at}${state.format} ${flushes} ${percent(shares.flushed)} to zero${kept}, ` +
    `and ${percent(shares.overflows)} ${overflow}.` +
    (is ? '' : ` The tensor is in ${tensor.dtype}.`);
}

const panels = new Map();  // by row

function facts(tensor) {
  const error = tensor.overflowed_share < 1 ? tensor.relative_error : null;
  const of = tensor.operation ? ' of ' + tensor.operation : '';
  const parts = [tensor.kind.replace('_', ' ') + of, tensor.dtype,
    tensor.shape.join(' × ') || 'scalar'];
  if (tensor.verdict !== 'incomparable')
    parts.push(`error ${number(error)}, tolerance ${number(tensor.tolerance)}`);
  if (tensor.max_abs)
    parts.push(`${data.against}: |x| from ${number(tensor.min_abs)} to ${number(tensor.max_abs)}`);
  const {zeros, non_finite: bad, counts} = tensor.exponents;
  const all = counts.reduce((sum, one) => sum + one, zeros + bad);
  if (zeros) parts.push(percent(zeros / all) + ' zero');
  if (bad) parts.push(percent(bad / all) + ' not finite');
  return parts.join(' · ');
}

function scaleMarks(state, go) {
  const marks = make('div', {class: 'marks'});
  const {least_scale: least, most_scale: most} = data.judgement;
  const known = [['present', state.present]];
  if (least !== null && (most === null || most >= least)) known.push(['least', Math.log2(least)]);
  if (most !== null && least !== null && most >= least) known.push(['most', Math.log2(most)]);
  const taken = [];
  for (const [name, scale] of known.filter((one) => one[1] >= state.low && one[1] <= state.high)) {
    const place = (scale - state.low) / (state.high - state.low);
    if (taken.some((other) => Math.abs(other - place) < 0.09)) continue;
    taken.push(place);
    const end = place < 0.06 ? 'begin' : place > 0.94 ? 'end' : '';
    const button = make('button', {type: 'button', class: end, style: `left:${100 * place}%`},
      `${name} ${power(scale)}`);
    button.addEventListener('click', () => go(scale));
    marks.append(button);
  }
  return marks;
}

/// Buttons of which one is pressed, and one that is apart.
function choicesOf(state, redraw) {
  const choices = make('div', {class: 'choices', role: 'group', 'aria-label': 'Format'},
    'range of');
  const buttons = data.shown_formats.map((name) =>
    make('button', {type: 'button', 'aria-pressed': name === state.format}, name));
  for (const button of buttons)
    button.addEventListener('click', () => {
      for (const one of buttons) one.setAttribute('aria-pressed', one === button);
      state.format = button.textContent;
      redraw();
    });
  const log = make('button', {type: 'button', class: 'apart', 'aria-pressed': true}, 'logarithmic');
  log.addEventListener('click', () => {
    state.log = !state.log;
    log.setAttribute('aria-pressed', state.log);
    redraw();
  });
  choices.append(...buttons, log);
  return choices;
}

function scaleLegend() {
  const key = (kind, text) => make('li', {}, make('span', {class: 'key ' + kind}), text);
  const legend = make('ul', {class: 'legend'}, key('flushed', 'flushed'),
    key('overflows', 'overflows'));
  if (data.judgement.least_scale !== null)
    legend.append(key('box would', 'would do for all gradients'));
  return legend;
}

function stateOf(tensor) {
  const isScaled = tensor.kind !== 'activation';
  const scale = isScaled ? Math.log2(data.loss_scale) : 0;
  const known = [data.judgement.least_scale, data.judgement.most_scale]
    .filter((one) => one).map((one) => Math.log2(one));
  return {format: data.format, log: true, scale, present: scale, isScaled,
    low: Math.floor(Math.min(0, scale, ...known)),
    high: Math.min(40, Math.ceil(Math.max(24, scale, ...known)))};
}

/// The panel below a row: redraw() after a change of its width.
function panelOf(tensor) {
  const panel = make('div', {class: 'panel'}, make('h3', {}, make('code', {}, tensor.name)),
    make('p', {class: 'about'}, facts(tensor)));
  if (kBadness[tensor.verdict] > 1 && data.judgement.config)
    panel.append(make('p', {class: 'about'},
      make('a', {href: '#mend'}, 'The lines of the configuration that mend the step')));
  if (!tensor.exponents.counts.length) {
    panel.append(make('p', {class: 'about'},
      'No value is finite and not zero: there is no histogram.'));
    return {panel, redraw: () => {}};
  }
  const state = stateOf(tensor);
  const [place, curve] = [make('div'), make('div')];
  const range = make('input', {type: 'range', min: state.low, max: state.high, step: 1});
  const said = make('output', {'aria-live': 'polite'});
  const slider = make('div', {class: 'scale'}, scaleLegend(), curve,
    make('label', {}, make('span', {}, 'loss scale'), range), scaleMarks(state, (to) => go(to)));
  const redraw = () => {
    const width = Math.max(300, panel.clientWidth - 32);
    const isScaled = state.isScaled && data.formats[state.format].scaling === 'none';
    place.replaceChildren(histogram(tensor, state, width));
    slider.hidden = !isScaled;
    if (isScaled) curve.replaceChildren(scaleCurve(tensor, state, width));
    range.value = Math.round(state.scale);
    range.setAttribute('aria-valuetext', power(state.scale));
    said.textContent = sentence(tensor, state);
  };
  const go = (to) => { state.scale = to; redraw(); };
  range.addEventListener('input', () => go(+range.value));
  panel.append(choicesOf(state, redraw), place, slider, said);
  return {panel, redraw};
}

function toggleRow(row) {
  const button = row.querySelector('td.name button');
  const known = panels.get(row);
  if (known) {
    known.row.remove();
    panels.delete(row);
  } else {
    const made = panelOf(tensors[row.dataset.i]);
    made.row = make('tr', {class: 'detail'}, make('td', {colspan: row.cells.length}, made.panel));
    panels.set(row, made);
    row.after(made.row);
    sizePanel(made);
  }
  row.classList.toggle('open', !known);
  button.setAttribute('aria-expanded', !known);
}

function sizePanel(one) {
  one.panel.style.width = document.querySelector('.scroll').clientWidth + 'px';
  one.redraw();
}
function resizePanels() { for (const one of panels.values()) sizePanel(one); }

for (const row of rows)
  row.addEventListener('click', (event) => {
    if (!String(getSelection())) toggleRow(row);
  });
let width = 0;
new ResizeObserver(() => {
  const now = document.querySelector('.scroll').clientWidth;
  if (now === width) return;
  width = now;
  resizePanels();
}).observe(document.querySelector('.scroll'));
)js";

}  // namespace halftone
