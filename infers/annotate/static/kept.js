// Unsaved work, kept by this browser alone: what was drawn survives a reload, a crash, and a restart of the server. It is
// of one image: the record has that image's checksum, and is offered only where the study still is that image.

import { pack, unpack } from "./server.js";

const NAME = "oneprompt-annotation", STORE = "work";

const opened = new Promise((resolve, reject) => {
  const asked = indexedDB.open(NAME, 1);
  asked.onupgradeneeded = () => asked.result.createObjectStore(STORE);
  asked.onsuccess = () => resolve(asked.result);
  asked.onerror = () => reject(asked.error);
});
opened.catch(() => {}); // each use says so itself

async function within(mode, act) {
  const base = await opened;
  return new Promise((resolve, reject) => {
    const transaction = base.transaction(STORE, mode, { durability: "strict" });
    const asked = act(transaction.objectStore(STORE));
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

const key = (id, checksum) => `${checksum} ${id}`;

export async function keep(work, name) {
  const { study, labels, structures, current } = work;
  const [values, painted] = await Promise.all([labels.values, labels.painted].map((bytes) => pack(new Blob([bytes]))));
  const record = {
    values, painted, dims: labels.dims, shrink: study.shrink, ts: Date.now(), by: name, seen: work.seen,
    current: current?.name, structures: structures.map(({ name: own, value, colour, prompts, grounded }) =>
      ({ name: own, value, colour, prompts, grounded })),
  };
  await within("readwrite", (store) => store.put(record, key(study.id, study.checksum)));
}

export const found = (study) => within("readonly", (store) => store.get(key(study.id, study.checksum)));

export const forget = (study) => within("readwrite", (store) => store.delete(key(study.id, study.checksum)));

// Put a record's work back; false where it was made at another resolution
export async function restore(work, record) {
  if (record.dims.some((size, axis) => size !== work.labels.dims[axis])) return false;
  const [values, painted] = await Promise.all([record.values, record.painted].map((bytes) => unpack(new Blob([bytes]))));
  work.labels.values.set(values);
  work.labels.painted.set(painted);
  for (const one of record.structures) {
    const there = work.structures.find(({ value }) => value === one.value);
    if (there) Object.assign(there, one);
    else work.structures.push({ ...one, hidden: false });
  }
  work.choose(work.structures.find(({ name }) => name === record.current) ?? work.structures[0] ?? null);
  work.past = [];
  work.future = [];
  work.changes += 1;
  work.seen = record.seen;
  work.viewer.labelsChanged();
  return true;
}
