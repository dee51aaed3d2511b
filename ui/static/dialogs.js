// @ts-check
// Dialogs: plain questions with a button that says what it does, and the help.

import { api, Refused } from './api.js';
import { h } from './html.js';
import { phases } from './feed.js';
import { state } from './html.js';
import { text } from './text.js';

let serial = 0;

/**
 * Opens a dialog. It goes away by Escape or its first button; a click beside it
 * does nothing, because typed text would be lost.
 * @param {{title: string, body: any, buttons?: any[], narrow?: boolean, closed?: () => void, cancel?: string}} o
 * @returns {HTMLDialogElement}
 */
export function show(o) {
  const id = `dialog-${++serial}`;
  /** @type {HTMLDialogElement} */
  const d = h(`dialog${o.narrow ? '.narrow' : ''}`, { aria: { labelledby: id } },
    h('form', { method: 'dialog', onsubmit: (/** @type {Event} */ e) => e.preventDefault() },
      h('header', null, h('h2', { id }, o.title)),
      h('div.inside', null, o.body),
      h('footer', null, h('button', { type: 'button', onclick: () => d.close() }, o.cancel ?? 'Keep as it is'), o.buttons)));
  d.addEventListener('close', () => { d.remove(); o.closed?.(); });
  document.body.append(d);
  d.showModal();
  return d;
}

/** What went wrong, why, and what now. @param {unknown} e */
export function complaint(e) {
  const r = e instanceof Refused ? e : new Refused(0, { detail: String(e) });
  return h('div.note.bad', { role: 'alert' }, h('p', null, r.message),
    r.changed.length > 0 && h('ul', null, r.changed.map((c) => h('li', null, c))));
}

/** @typedef {{title: string, says: string|string[], button: string, danger?: boolean, second?: string, run: (second: boolean) => Promise<any>}} Question */

/** @type {Record<string, (row: any) => Question>} */
const questions = {
  reject: (r) => ({
    title: `Reject the install of ${r.name}?`, button: 'Reject', says: 'Nothing is written. The machine boots its own disk. The task stays and can be retried.',
    run: () => api.decide(r.task.id, { approved: false, plan_hash: r.task.plan_hash || undefined }),
  }),
  retry: (r) => ({
    title: `Try ${r.name} again?`, button: 'Retry', says: [r.task.error?.message ? `Last time: ${r.task.error.message}.` : '', 'The machine looks at its disks anew, and waits for you to approve before anything is erased.'],
    run: () => api.retry(r.task.id),
  }),
  cancel: (r) => (r.working ? {
    title: `Cancel the install of ${r.name} half way?`, button: 'Cancel and leave it half written', danger: true,
    says: 'Its disk is being written now. If you stop, the disk does not boot until the task is retried.', run: () => api.cancel(r.task.id),
  } : {
    title: `Cancel the task for ${r.name}?`, button: 'Cancel task', says: 'Nothing has been written. The task can be retried later.', run: () => api.cancel(r.task.id),
  }),
  delete: (r) => ({
    title: `Delete the task for ${r.name}?`, button: 'Delete task', says: 'The task and its log go. The machine and its disks stay as they are.', run: () => api.remove(r.task.id),
  }),
  forget: (r) => ({
    title: `Forget ${r.name}?`, button: 'Forget machine', says: 'What is known of it goes, with the address kept for it. Its disks stay as they are. If it boots from the network again, it is a new machine.',
    run: () => api.forget(r.machine.id),
  }),
  release: (r) => ({
    title: `Let ${r.name} netboot again?`, button: 'Release', says: ['It was told several times to start the agent, and never reported. Look at its console first: if the agent stops again, it is held again.'],
    run: () => (r.machine?.held ? api.release(r.machine.id) : api.releaseTask(r.task.id)),
  }),
  cancel_boot: (r) => ({
    title: `Not boot ${r.name} into ${r.machine.next_boot?.profile}?`, button: 'Do not boot it', says: 'The wish goes, and an approval with it. At its next netboot the machine boots its own disk.',
    run: () => api.cancelBoot(r.machine.id),
  }),
  protect: (r) => ({
    title: `Protect ${r.name}?`, button: 'Protect', says: 'Nothing is approved for it, and it is not forgotten, until an admin takes the protection off. An approval that waits for the machine is void.',
    run: () => api.protect(r.machine.id),
  }),
  unprotect: (r) => ({
    title: `Take the protection off ${r.name}?`, button: 'Take it off', danger: true, says: 'From then on its disk can be erased by an approval, as that of any other machine.',
    run: () => api.unprotect(r.machine.id),
  }),
  resolve: (r) => ({
    title: `Which machine is ${r.name}?`, button: 'It is the same, take the new ids', second: 'Keep the ids it had',
    says: [`${r.question}.`, `Known so far: ${ids(r.machine.ids)}`, r.machine.rival ? `Reported now: ${ids(r.machine.rival)}` : '', 'If a board or a network card was replaced, take the new ids. If it is another computer, keep them: it is asked again when that one reports.'],
    run: (second) => api.settle(r.machine.id, !second),
  }),
};
questions.settle = questions.resolve;

/** @param {any} i */
function ids(i) {
  return [i.uuid && `UUID ${i.uuid}`, i.serial && `serial ${i.serial}`, i.macs?.length && `MACs ${i.macs.join(', ')}`].filter(Boolean).join('; ');
}

/** Asks before it acts. @param {any} app @param {string} action @param {any} row */
export function open(app, action, row) {
  const q = questions[action]?.(row);
  if (!q) return;
  const wrong = h('div');
  const say = [q.says].flat().filter(Boolean).map((s) => h('p', null, s));
  const run = async (/** @type {boolean} */ second) => {
    buttons.forEach((b) => { b.disabled = true; });
    try {
      await q.run(second);
      d.close();
    } catch (e) {
      wrong.replaceChildren(complaint(e));
      buttons.forEach((b) => { b.disabled = false; });
    }
  };
  const buttons = [q.second && h('button', { type: 'button', onclick: () => run(true) }, q.second),
    h(q.danger ? 'button.danger' : 'button.primary', { type: 'button', data: { confirm: action }, onclick: () => run(false) }, q.button)].filter(Boolean);
  const d = show({ title: q.title, narrow: true, body: [say, wrong], buttons });
  buttons[buttons.length - 1].focus();
}

/** The keys, and what the signs mean. */
export function help() {
  if (document.querySelector('dialog[open]')) return;
  show({
    title: 'Keys and signs', cancel: 'Close',
    body: [
      h('div.two', null,
        h('table.plain', null, h('caption.vh', null, 'Keys'), h('tbody', null, text.keys.map(([k, what]) => h('tr', null, h('td', null, k.split(/\s+(?:then\s+)?/).map((x, i) => [i ? ' ' : '', h('kbd', null, x)])), h('td', null, what))))),
        h('table.plain', null, h('caption.vh', null, 'States'), h('tbody', null, phases.map((p) => h('tr', null, h('td', null, state(p)), h('td', null, text.phaseMeans[p])))))),
      h('p.soft', null, text.filterHelp),
    ],
  });
}
