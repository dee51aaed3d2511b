// @ts-check
// The fleet: one table that draws only the rows on the screen. Rows are
// recycled, a text is touched only if it differs, bars move by a transform. A
// line belongs to its row by key, so focus travels with a machine when the order
// changes.

import { text, memory, plural, rate, span } from './text.js';

const overscan = 4;
/** More lines than any screen shows; it bounds the page on a wall of monitors. */
const mostLines = 60;

/** Sets a text only if it is another. @param {Node} el @param {string} s */
export function setText(el, s) {
  if (el.textContent !== s) el.textContent = s;
}

/** @param {Element} el @param {string} name @param {string} v */
function setAttr(el, name, v) {
  if (el.getAttribute(name) !== v) el.setAttribute(name, v);
}

/** A row on the screen: its cells and what they last showed. */
class Line {
  /** @param {HTMLTemplateElement} template */
  constructor(template) {
    this.tr = /** @type {HTMLTableRowElement} */ (template.content.firstElementChild?.cloneNode(true));
    const cell = (/** @type {string} */ c) => /** @type {HTMLElement} */ (this.tr.querySelector(c));
    this.word = cell('.c-state span');
    this.link = /** @type {HTMLAnchorElement} */ (cell('.c-name a'));
    this.track = cell('.track');
    this.fill = cell('.track i');
    this.says = cell('.c-doing span');
    this.stalled = cell('.stalled');
    this.cells = ['rate', 'image', 'serial', 'mac', 'ip', 'hw'].map((c) => cell(`.c-${c}`));
    this.age = cell('.c-seen');
    this.button = /** @type {HTMLButtonElement} */ (cell('button'));
    this.top = -1;
    this.key = '';
    this.version = -1;
  }

  /** @param {import('./feed.js').Row} row @param {string} why nothing can be done now */
  patch(row, why) {
    const tr = this.tr;
    if (this.version === row.version && this.key === row.key && this.why === why) return;
    this.version = row.version;
    this.key = row.key;
    this.why = why;
    tr.dataset.key = row.key;
    if (tr.dataset.phase !== row.phase) tr.dataset.phase = row.phase;
    setText(this.word, row.question ? 'question' : text.phase[row.phase] ?? row.phase);
    setText(this.link, row.name);
    setAttr(this.link, 'href', `#/${row.key}`);
    const bar = row.bar;
    this.track.hidden = bar === null;
    if (bar !== null) {
      this.fill.style.transform = `scaleX(${(bar / 100).toFixed(4)})`;
      setAttr(this.track, 'aria-valuenow', String(Math.round(bar)));
      setAttr(this.track, 'aria-valuetext', row.says);
      setAttr(this.track, 'aria-label', row.name);
    }
    const says = row.stall?.text ?? row.says;
    this.stalled.hidden = !row.stall;
    setText(this.says, says);
    const whole = row.stall ? `${says}. ${row.stall.hint}` : row.working ? '' : says;
    if (this.says.title !== whole) this.says.title = whole;
    const values = [rate(row.speed), row.image, row.serial, row.mac, row.ip, hardware(row.machine?.summary)];
    this.cells.forEach((c, i) => setText(c, values[i]));
    const act = row.button;
    this.button.hidden = !act;
    if (act) {
      const label = text.action[act] ?? act;
      setText(this.button, label);
      setAttr(this.button, 'aria-label', `${label} ${row.name}`);
      this.button.dataset.act = act;
      this.button.disabled = Boolean(why);
      this.button.title = why;
    }
  }
}

/** @param {any} s */
export function hardware(s) {
  if (!s) return '';
  const disks = s.disks?.length ?? 0;
  return [s.threads && `${s.cores || s.threads} c`, memory(s.memory_bytes), disks && plural(disks, 'disk', 'disks')].filter(Boolean).join(' · ');
}

export class Fleet {
  /**
   * @param {HTMLElement} root the section
   * @param {import('./feed.js').Store} store
   * @param {{act: (action: string, row: any) => void, go: (hash: string) => void, show: (ids: string[]) => void, why: () => string, dirty: () => void}} env
   */
  constructor(root, store, env) {
    this.root = root;
    this.store = store;
    this.env = env;
    this.table = /** @type {HTMLTableElement} */ (root.querySelector('table'));
    this.body = this.table.tBodies[0];
    this.empty = /** @type {HTMLElement} */ (root.querySelector('#empty'));
    this.rowTemplate = /** @type {any} */ (document.getElementById('row'));
    this.groupTemplate = /** @type {any} */ (document.getElementById('group'));
    this.query = '';
    this.sort = '';
    this.cursor = '';
    /** @type {ReturnType<import('./feed.js').Store['lines']>} */ this.lines = [];
    /** @type {Map<string, Line>} */ this.used = new Map();
    /** @type {Map<string, {tr: any, top: number}>} */ this.heads = new Map();
    /** @type {Line[]} */ this.free = [];
    /** @type {number[]} */ this.tops = [];
    this.shape = -1;
    this.told = 0;

    addEventListener('scroll', () => env.dirty(), { passive: true });
    addEventListener('resize', () => { this.measure(); env.dirty(); });
    this.body.addEventListener('click', (e) => this.#click(e));
    this.body.addEventListener('focusin', (e) => {
      const tr = /** @type {HTMLElement} */ (e.target).closest('tr');
      if (tr?.dataset.key) this.#point(tr.dataset.key);
    });
    this.table.tHead?.addEventListener('click', (e) => {
      const th = /** @type {HTMLElement} */ (e.target).closest('th');
      if (th?.dataset.sort) this.onsort?.(this.#nextSort(th.dataset.sort));
    });
    this.measure();
  }

  /** @type {((sort: string) => void)|undefined} */
  onsort;

  measure() {
    const style = getComputedStyle(this.table);
    const height = parseFloat(style.getPropertyValue('--row')) || 36;
    if (height === this.height) return;
    this.height = height;
    this.headHeight = parseFloat(style.getPropertyValue('--head')) || height;
    this.shape = -1;
  }

  /** @param {string} query @param {string} sort */
  look(query, sort) {
    if (query === this.query && sort === this.sort && this.shape >= 0) return;
    this.query = query;
    this.sort = sort;
    this.shape = -1;
    for (const th of this.table.tHead?.querySelectorAll('th') ?? []) {
      if (!th.dataset.sort) continue;
      const mine = sort.replace('-', '') === th.dataset.sort;
      if (mine) th.setAttribute('aria-sort', sort.startsWith('-') ? 'descending' : 'ascending');
      else th.removeAttribute('aria-sort');
    }
  }

  #nextSort(key) {
    if (this.sort === key) return `-${key}`;
    return this.sort === `-${key}` ? '' : key;
  }

  /** Draws what is on the screen. @param {boolean} tick a second has passed: ages too */
  paint(tick) {
    if (this.root.hidden) return;
    if (this.shape !== this.store.shape) this.#order();
    const top = this.body.getBoundingClientRect().top;
    const first = Math.max(0, this.#at(-top) - overscan);
    const last = Math.min(this.lines.length, this.#at(innerHeight - top) + 1 + overscan, first + mostLines);
    const keep = this.#visible(first, last);
    this.#recycle(keep);
    const why = this.env.why();
    const now = this.store.now();
    const ids = [];
    /** @type {Element|null} */ let before = null;
    for (const [key, i] of keep) {
      const item = this.lines[i];
      const line = 'key' in item ? this.#row(key) : this.#head(key, item);
      this.#put(line, i, before);
      before = line.tr;
      if (!('key' in item)) continue;
      const age = tick || line.version !== item.version;
      line.patch(item, why);
      if (age) setText(line.age, Number.isFinite(item.seen) ? span(now - item.seen) : '');
      const tab = key === this.cursor ? 0 : -1;
      if (line.link.tabIndex !== tab) line.link.tabIndex = tab;
      if (item.machine) ids.push(item.machine.id);
    }
    this.#tell(ids);
  }

  /** Puts a line where its index says, in the page's order too: that is how it is read aloud. */
  #put(line, i, before) {
    const tr = line.tr;
    if (line.top !== this.tops[i]) {
      line.top = this.tops[i];
      tr.style.transform = `translateY(${line.top}px)`;
    }
    setAttr(tr, 'aria-rowindex', String(i + 2));
    if (tr.parentNode === this.body && tr.previousElementSibling === before) return;
    const next = before ? before.nextElementSibling : this.body.firstElementChild;
    const focus = tr.contains(document.activeElement) ? /** @type {HTMLElement} */ (document.activeElement) : null;
    this.body.insertBefore(tr, next);
    focus?.focus({ preventScroll: true });
  }

  /** Keys on the screen with their place, and the row that has the focus wherever it is. */
  #visible(first, last) {
    const keep = new Map();
    for (let i = first; i < last; i++) {
      const item = this.lines[i];
      keep.set('key' in item ? item.key : `g/${item.group}`, i);
    }
    if (!keep.has(this.cursor) && this.used.get(this.cursor)?.tr.contains(document.activeElement)) {
      const i = this.#place(this.cursor);
      if (i >= 0 && i < first) return new Map([[this.cursor, i], ...keep]);
      if (i >= 0) keep.set(this.cursor, i);
    }
    return keep;
  }

  #recycle(keep) {
    for (const [key, line] of this.used) {
      if (keep.has(key)) continue;
      this.used.delete(key);
      line.top = line.version = -1;
      line.tr.remove();
      this.free.push(line);
    }
    for (const [key, head] of this.heads) {
      if (keep.has(key)) continue;
      head.tr.remove();
      this.heads.delete(key);
    }
  }

  #row(key) {
    let line = this.used.get(key);
    if (!line) {
      line = this.free.pop() ?? new Line(this.rowTemplate);
      this.used.set(key, line);
    }
    return line;
  }

  #head(key, item) {
    let head = this.heads.get(key);
    if (!head) {
      head = { tr: this.groupTemplate.content.firstElementChild.cloneNode(true), top: -1 };
      head.tr.dataset.group = item.group;
      setText(head.tr.querySelector('span'), text.group[item.group] ?? item.group);
      this.heads.set(key, head);
    }
    setText(head.tr.querySelector('b'), item.n.toLocaleString('en'));
    return head;
  }

  #order() {
    this.shape = this.store.shape;
    this.lines = this.store.lines(this.query, this.sort);
    let top = 0;
    this.tops = this.lines.map((l) => {
      const mine = top;
      top += ('key' in l ? this.height : this.headHeight) ?? 36;
      return mine;
    });
    this.body.style.height = `${top}px`;
    this.table.setAttribute('aria-rowcount', String(this.lines.length + 1));
    this.matched = this.lines.reduce((n, l) => n + ('key' in l ? 1 : 0), 0);
    this.table.hidden = this.lines.length === 0;
    this.empty.hidden = this.lines.length > 0;
    if (this.#place(this.cursor) < 0) {
      const first = this.lines.find((l) => 'key' in l);
      this.cursor = first && 'key' in first ? first.key : '';
    }
  }

  /** The node is told which machines are looked at, at most every 150 ms. */
  #tell(ids) {
    this.looking = ids;
    this.told ||= window.setTimeout(() => { this.told = 0; this.env.show(this.looking ?? []); }, 150);
  }

  /** The line that lies y pixels below the top of the table's body. @param {number} y */
  #at(y) {
    let low = 0, high = this.tops.length;
    while (low < high) {
      const mid = (low + high) >> 1;
      if (this.tops[mid] <= y) low = mid + 1; else high = mid;
    }
    return Math.max(0, low - 1);
  }

  #place(key) { return this.lines.findIndex((l) => 'key' in l && l.key === key); }

  #point(key) {
    if (this.cursor === key) return;
    this.cursor = key;
    this.env.dirty();
  }

  #click(e) {
    const target = /** @type {HTMLElement} */ (e.target);
    const tr = target.closest('tr');
    const row = tr?.dataset.key ? this.store.rows.get(tr.dataset.key) : null;
    if (!row) return;
    const button = target.closest('button');
    if (button) this.env.act(button.dataset.act ?? '', row);
    else if (!target.closest('a') && !String(getSelection())) this.env.go(`#/${row.key}`);
  }

  /** Moves the cursor by rows and puts the focus there. @param {number} by */
  move(by) {
    let i = this.#place(this.cursor);
    const focused = this.used.get(this.cursor)?.tr.contains(document.activeElement);
    if (focused) do i += by; while (this.lines[i] && !('key' in this.lines[i]));
    const line = this.lines[i];
    if (!line || !('key' in line)) return;
    this.cursor = line.key;
    this.reveal(i);
    this.paint(false);
    this.used.get(line.key)?.link.focus({ preventScroll: true });
  }

  /** Scrolls as little as needed for line i to be clear of the sticky head. @param {number} i */
  reveal(i) {
    const h = this.height ?? 36;
    if (this.shape !== this.store.shape) this.#order();
    const head = this.table.tHead?.getBoundingClientRect();
    const top = this.body.getBoundingClientRect().top + this.tops[i];
    const ceiling = Math.max(0, head?.bottom ?? 0) + h;
    if (top < ceiling) scrollBy(0, top - ceiling);
    else if (top + 2 * h > innerHeight) scrollBy(0, top + 2 * h - innerHeight);
  }

  /** The row the cursor is on. */
  get current() { return this.store.rows.get(this.cursor) ?? null; }

  /** Puts the focus back on the row people came from. */
  focusCursor() { this.used.get(this.cursor)?.link.focus({ preventScroll: true }); }
}
