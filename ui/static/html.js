// @ts-check
// Elements, never strings of markup: what a machine says about itself cannot
// become a part of the page.

/**
 * Makes an element. Properties starting with "on" are listeners, "data" and
 * "aria" take objects, known DOM properties are set, the rest are attributes.
 * @param {string} tag "div" or "div.class.class"
 * @param {Record<string, any>|null} [props]
 * @param {...any} kids nodes, strings, numbers, arrays of them; null and false are left out
 * @returns {any}
 */
export function h(tag, props, ...kids) {
  const [name, ...classes] = tag.split('.');
  const el = document.createElement(name);
  if (classes.length) el.className = classes.join(' ');
  for (const [k, v] of Object.entries(props ?? {})) {
    if (v === undefined || v === null || v === false) continue;
    if (k.startsWith('on')) el.addEventListener(k.slice(2), v);
    else if (k === 'data') Object.assign(el.dataset, v);
    else if (k === 'aria') for (const a in v) el.setAttribute(`aria-${a}`, v[a]);
    else if (k in el && k !== 'list' && k !== 'form' && k !== 'role') el[k] = v;
    else el.setAttribute(k, v === true ? '' : v);
  }
  el.append(...kids.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false && c !== ''));
  return el;
}

/** A state as shape, word and colour. @param {string} phase */
export function state(phase, word = phase) {
  return h('span.state', { data: { phase } }, h('i.sign', { aria: { hidden: 'true' } }), word);
}

/**
 * Puts fresh content into a section only if what it shows has changed, so that
 * selection and focus stay where nothing moved.
 * @param {HTMLElement} el @param {any} data @param {() => any} make
 */
export function keep(el, data, make) {
  const key = JSON.stringify(data) ?? '';
  if (shown.get(el) === key) return;
  shown.set(el, key);
  el.replaceChildren(...[make()].flat(Infinity).filter(Boolean));
}
const shown = new WeakMap();
