// What the page asks of the server, in the forms that docs/annotate.md describes. Addresses are relative to /oneprompt/.

import { list, request, Refused } from "../../static/api.js";

const HEADER = 108; // where a NIfTI-1 header says at which byte its voxels begin

export const study = async (id, shrink) => (await request(`${at(id)}/open?shrink=${shrink}`)).json();

export async function row(id) {
  const found = await list({ show: id, per_page: 1 });
  return { ...found, row: found.studies.find((one) => one.id === id) };
}

// The image as a NIfTI file; `heard(bytes, of)` while it comes
export async function volume(id, shrink, heard, signal) {
  const answer = await request(`${at(id)}/volume.nii?shrink=${shrink}`, { signal });
  const length = Number(answer.headers.get("X-Length"));
  const bytes = new Uint8Array(length);
  let place = 0;
  for (const reader = answer.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (place + value.length > length) throw new Refused("the image changed while it was loaded: load it again", 0);
    bytes.set(value, place);
    place += value.length;
    heard(place, length);
  }
  if (place !== length) throw new Refused("the connection broke while the image was loaded: load it again", 0);
  return bytes.buffer;
}

export async function mask(id, tag) {
  return voxels(new Uint8Array(await (await request(`${at(id)}/mask.nii?tag=${tag}`)).arrayBuffer()));
}

// A model's answer to prompts: the mask's bytes, and what is told about it; `label` is {file, suffix} of what it refines
export async function infer(model, id, params, signal, label = null) {
  const form = new FormData();
  form.set("params", JSON.stringify({ ...params, result_extension: ".nii.gz" }));
  if (label) form.set("label", label.file, `label${label.suffix}`);
  const path = `../infer/${model}?image=${encodeURIComponent(id)}&output=all`;
  const answer = await (await request(path, { method: "POST", body: form, signal })).formData();
  const told = JSON.parse(await text(answer.get("params")));
  const file = [...answer.values()].find((part) => part instanceof Blob && part.type !== "application/json");
  return { mask: voxels(await through(file, new DecompressionStream("gzip"))), told };
}

const text = (part) => (part instanceof Blob ? part.text() : part);

// Save a label as every client of MONAI Label does; `names` in the order of the values 1, 2, ...
export async function submit(id, file, suffix, names, told, seen) {
  const form = new FormData();
  form.set("params", JSON.stringify({ label_info: names.map((name, n) => ({ name, idx: n + 1 })), ...told }));
  form.set("label", file, `label${suffix}`);
  const path = `../datastore/label?image=${encodeURIComponent(id)}&seen=${seen}`;
  return (await request(path, { method: "PUT", body: form })).json();
}

export const submitPrompts = (id, body) => send("PUT", `${at(id)}/prompts`, body);

export const presence = (id, body) => send("POST", `${at(id)}/presence`, body);

export function leave(id, session) {
  send("POST", `${at(id)}/presence`, { session, leaving: true }, { keepalive: true }).catch(() => {});
}

// The study that a strategy gives next; null where every study has a label
export async function next(strategy) {
  return (await send("POST", `../activelearning/${strategy}`, {})).id ?? null;
}

async function send(method, path, body, more = {}) {
  const headers = { "Content-Type": "application/json" };
  return (await request(path, { method, headers, body: JSON.stringify(body), ...more })).json();
}

// A label file, made of the head that the server gave and the voxels in the file's order
export async function labelFile({ suffix, head }, bytes) {
  const start = Uint8Array.from(atob(head), (letter) => letter.charCodeAt(0));
  if (suffix === ".nii.gz") return new Blob([await pack(new Blob([start, bytes]))]);
  return new Blob([start, await pack(new Blob([bytes]))]);
}

export const pack = (blob) => through(blob, new CompressionStream("gzip"));
export const unpack = (blob) => through(blob, new DecompressionStream("gzip"));

async function through(blob, stream) {
  return new Uint8Array(await new Response(blob.stream().pipeThrough(stream)).arrayBuffer());
}

function voxels(file) {
  const header = new DataView(file.buffer, file.byteOffset);
  const little = [348, 540].includes(header.getInt32(0, true)); // a file has its own byte order
  const offset = header.getInt32(0, little) === 540 ? Number(header.getBigInt64(168, little)) : header.getFloat32(HEADER, little);
  return file.subarray(offset);
}

const at = (id) => `studies/${encodeURIComponent(id)}`;
