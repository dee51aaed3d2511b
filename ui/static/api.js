// @ts-check
// The only output: what people ask of the node. An answer says heard or
// refused; the screen changes when the event comes, as on every other screen.

/** A refusal in the node's words (RFC 9457). */
export class Refused extends Error {
  /** @param {number} status @param {any} problem */
  constructor(status, problem) {
    super(problem?.detail || problem?.title || `the node answered ${status}`);
    this.status = status;
    /** @type {string[]} What differs from what was approved. */
    this.changed = problem?.changed ?? [];
    /** @type {{location: string, message: string}[]} Which field is meant. */
    this.fields = problem?.errors ?? [];
  }
}

const unreachable = 'The node could not be reached. Nothing was done. Try again when the light at the top says live.';

/** @param {string} method @param {string} path @param {any} [body] @param {AbortSignal} [signal] */
async function call(method, path, body, signal) {
  let res;
  try {
    res = await fetch(`/api/v1${path}`, {
      method, signal,
      headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (e) {
    if (signal?.aborted) throw e;
    throw new Refused(0, { detail: unreachable });
  }
  const data = await res.json().catch(() => null);
  if (res.status === 401 && !path.startsWith('/session') && path !== '/setup') dispatchEvent(new Event('signed-out'));
  if (!res.ok) throw new Refused(res.status, data);
  return data;
}

const id = encodeURIComponent;

export const api = {
  machine: (/** @type {string} */ m) => call('GET', `/machines/${id(m)}`),
  task: (/** @type {string} */ t) => call('GET', `/tasks/${id(t)}`),
  tasksOf: (/** @type {string} */ m) => call('GET', `/tasks?machine_id=${id(m)}&limit=20`),
  whoAmI: () => call('GET', '/session'),
  signIn: (/** @type {any} */ body) => call('POST', '/session', body),
  signOut: () => call('DELETE', '/session'),
  setUp: (/** @type {any} */ body) => call('POST', '/setup', body),
  changeOwnPassword: (/** @type {any} */ body) => call('POST', '/me/password', body),
  users: () => call('GET', '/users'),
  addUser: (/** @type {any} */ body) => call('POST', '/users', body),
  changeUser: (/** @type {string} */ u, /** @type {any} */ change) => call('PATCH', `/users/${id(u)}`, change),
  removeUser: (/** @type {string} */ u) => call('DELETE', `/users/${id(u)}`),
  tokens: () => call('GET', '/tokens'),
  addToken: (/** @type {any} */ body) => call('POST', '/tokens', body),
  removeToken: (/** @type {string} */ t) => call('DELETE', `/tokens/${id(t)}`),
  network: () => call('GET', '/network'),
  wire: (/** @type {string} */ mac) => call('GET', `/wire/${id(mac)}`),
  leases: () => call('GET', '/leases'),
  audit: (/** @type {number} */ limit) => call('GET', `/audit?limit=${limit}`),
  doctor: () => call('GET', '/doctor'),
  token: () => call('POST', '/cluster/tokens'),
  promote: (/** @type {string} */ n) => call('POST', `/cluster/nodes/${id(n)}/promote`),
  demote: (/** @type {string} */ n) => call('POST', `/cluster/nodes/${id(n)}/demote`),
  removeNode: (/** @type {string} */ n) => call('DELETE', `/cluster/nodes/${id(n)}`),
  transfer: (/** @type {string} */ to) => call('POST', '/cluster/transfer', { to }),
  plan: (/** @type {any} */ spec, /** @type {AbortSignal} */ signal) => call('POST', '/plan', spec, signal),
  create: (/** @type {any} */ spec) => call('POST', '/tasks', spec),
  decide: (/** @type {string} */ t, /** @type {any} */ decision) => call('PUT', `/tasks/${id(t)}/approve`, decision),
  cancel: (/** @type {string} */ t) => call('POST', `/tasks/${id(t)}/cancel`),
  retry: (/** @type {string} */ t) => call('POST', `/tasks/${id(t)}/retry`),
  remove: (/** @type {string} */ t) => call('DELETE', `/tasks/${id(t)}`),
  forget: (/** @type {string} */ m) => call('DELETE', `/machines/${id(m)}`),
  protect: (/** @type {string} */ m) => call('POST', `/machines/${id(m)}/protect`),
  unprotect: (/** @type {string} */ m) => call('POST', `/machines/${id(m)}/unprotect`),
  release: (/** @type {string} */ m) => call('POST', `/machines/${id(m)}/release`),
  releaseTask: (/** @type {string} */ t) => call('POST', `/tasks/${id(t)}/release`),
  profiles: () => call('GET', '/profiles'),
  bootOffer: (/** @type {string} */ m, /** @type {string} */ profile, /** @type {string} */ disk) => call('GET', `/machines/${id(m)}/boot?${new URLSearchParams(disk ? { profile, disk } : { profile })}`),
  boot: (/** @type {string} */ m, /** @type {any} */ wish) => call('POST', `/machines/${id(m)}/boot`, wish),
  cancelBoot: (/** @type {string} */ m) => call('DELETE', `/machines/${id(m)}/boot`),
  settle: (/** @type {string} */ m, /** @type {boolean} */ accept) => call('POST', `/machines/${id(m)}/settle`, { accept }),
  fetchImage: (/** @type {any} */ body) => call('POST', '/images', body),
  removeImage: (/** @type {string} */ name) => call('DELETE', `/images/${id(name)}`),

  /**
   * Sends an image as it lies on this computer. fetch() tells nothing of how far
   * an upload is, XMLHttpRequest does.
   * @param {File} file @param {Record<string, string>} query @param {(share: number) => void} onshare
   * @param {AbortSignal} signal
   */
  upload(file, query, onshare, signal) {
    return new Promise((resolve, reject) => {
      const x = new XMLHttpRequest();
      x.open('POST', `/api/v1/images?${new URLSearchParams(query)}`);
      x.setRequestHeader('Content-Type', 'application/octet-stream');
      x.upload.onprogress = (e) => { if (e.lengthComputable) onshare(e.loaded / e.total); };
      x.onload = () => {
        let data = null;
        try { data = JSON.parse(x.responseText); } catch { /* a refusal without words */ }
        if (x.status >= 200 && x.status < 300) resolve(data);
        else reject(new Refused(x.status, data));
      };
      x.onerror = () => reject(new Refused(0, { detail: 'The upload was cut. Nothing of it was kept. Send the file again.' }));
      x.onabort = () => reject(new Refused(0, { detail: 'The upload was stopped. Nothing of it was kept.' }));
      signal.addEventListener('abort', () => x.abort());
      x.send(file);
    });
  },
};
