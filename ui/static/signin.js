// @ts-check
// The page of who is not signed in: name and password, a code that came by a link,
// or the first administrator of a new cluster.

import { api, Refused } from './api.js';
import { h } from './html.js';
import { text } from './text.js';

const words = text.signIn;

/** Whether this browser is signed in; true also when the node cannot be asked. */
export async function signedIn() {
  try {
    return Boolean((await api.whoAmI()).name);
  } catch (e) {
    return !(e instanceof Refused) || e.status !== 401;
  }
}

/** Signs in by the code of a link. @param {string} code @returns {Promise<boolean>} */
export async function redeem(code) {
  try {
    await api.signIn({ code });
    return true;
  } catch (e) {
    if (await signedIn()) return true; // the link was used here before
    await open(e instanceof Refused && e.status === 401 ? words.oldLink : e instanceof Error ? e.message : String(e));
    return false;
  }
}

/**
 * Takes the page away, with all that was on it, and asks who is there.
 * @param {string} [says] why
 */
export async function open(says = '') {
  if (document.getElementById('door')) return;
  document.body.dataset.link = 'signed-out';
  document.title = text.title;
  const setup = await api.whoAmI().then((w) => w.setup, () => false);
  /** @type {any[]} */ const fields = [];
  const field = (/** @type {string} */ name, /** @type {string} */ label, /** @type {any} */ props, hint = '') => {
    const input = h('input', { id: `d-${name}`, name, required: true, spellcheck: false, aria: { describedby: `dh-${name}` }, ...props });
    fields.push(input);
    return h('div.field', null, h('label', { htmlFor: input.id }, label), input, h('span.hint', { id: `dh-${name}` }, hint));
  };
  const wrong = h('div', { role: 'alert' }, says && h('p.note', null, says));
  const button = h('button.primary', { type: 'submit' }, setup ? words.setUp : words.signIn);
  const form = h('form.inside-more', { onsubmit: async (/** @type {Event} */ e) => {
    e.preventDefault();
    const given = Object.fromEntries(fields.map((f) => [f.name, f.name === 'password' ? f.value : f.value.trim()]));
    button.disabled = true;
    wrong.replaceChildren();
    try {
      await (setup ? api.setUp(given) : api.signIn(given));
      location.reload();
    } catch (x) {
      wrong.replaceChildren(h('p.note.bad', null, x instanceof Refused && x.status === 401 ? (setup ? words.wrongCode : words.wrong) : x instanceof Error ? x.message : String(x)));
      button.disabled = false;
      fields[fields.length - 1].focus();
    }
  } },
  setup && h('p', null, words.nobody),
  setup && field('code', words.code, { autocomplete: 'off', className: 'mono', maxLength: 64 }, words.codeHint),
  field('name', words.name, { autocomplete: 'username', autocapitalize: 'none', maxLength: 64 }),
  field('password', words.password, { type: 'password', autocomplete: setup ? 'new-password' : 'current-password', maxLength: 1024 }, setup ? words.passwordHint : ''),
  wrong, h('div.actions', null, button));
  document.body.replaceChildren(h('main.door', { id: 'door' }, h('article.sheet', null,
    h('header', null, h('h1', null, setup ? words.setUpTitle : words.title)),
    h('section.card', null, form), h('p.soft', null, words.lost))));
  fields[0].focus();
}
