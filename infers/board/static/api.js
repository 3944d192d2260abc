// The server's answers and errors. Addresses are relative to /oneprompt/, so any prefix before it works.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let token = sessionStorage.getItem("oneprompt-token"); // where MONAI Label asks for a login

export async function request(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused("the server does not answer", 0);
  }
  if (!answer.ok) throw new Refused(await words(answer), answer.status);
  return answer;
}

async function words(answer) {
  try {
    const { detail } = await answer.json();
    return typeof detail === "string" ? detail : detail.map((entry) => entry.msg).join("; ");
  } catch {
    return `the server answered ${answer.status}`;
  }
}

export async function list(query) {
  const set = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return (await request(`studies?${new URLSearchParams(set)}`)).json();
}

export async function files() {
  return (await request("files")).json();
}

export async function decide(action, body) {
  const headers = { "Content-Type": "application/json" };
  return (await request(action, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

export async function job(method, path = "job") {
  return (await request(path, { method })).json();
}

export async function training(method = "GET") {
  return (await request("training", { method })).json();
}

export async function trainUniSeg() {
  return (await request("../train/uniseg?enqueue=true", { method: "POST" })).json();
}

export async function withdrawUniSeg() {
  return (await request("../model/uniseg", { method: "DELETE" })).json();
}

export async function trainSpecialist() {
  return (await request("../train/oneprompt_specialist?enqueue=true", { method: "POST" })).json();
}

export async function serve(version) {
  return (await request(`versions/${encodeURIComponent(version)}`, { method: "POST" })).json();
}

export async function login(form) {
  const answer = await request("../auth/token", { method: "POST", body: new URLSearchParams(new FormData(form)) });
  token = (await answer.json()).access_token;
  sessionStorage.setItem("oneprompt-token", token);
}

// Pictures are fetched, not linked to, so that the login goes with them; a few at a time, so that decisions are not
// held up behind a page of large volumes.
const AT_ONCE = 3;
const KEEP = 300;
const pictures = new Map(); // address: object URL, or null while it is fetched, or an Error
const waiting = [];
let fetching = 0;

export function picture(id, version, size, done) {
  const address = `studies/${encodeURIComponent(id)}/thumbnail.png?size=${size}&v=${version}`;
  if (!pictures.has(address)) {
    pictures.set(address, null);
    waiting.push([address, done]);
    next();
  }
  return pictures.get(address);
}

export function forgetWaiting() {
  for (const [address] of waiting.splice(0)) pictures.delete(address);
}

async function next() {
  if (fetching >= AT_ONCE || !waiting.length) return;
  const [address, done] = waiting.shift();
  fetching += 1;
  try {
    pictures.set(address, URL.createObjectURL(await (await request(address)).blob()));
  } catch (error) {
    pictures.set(address, error);
  }
  fetching -= 1;
  forgetOldest();
  done();
  next();
}

function forgetOldest() {
  for (const [address, url] of pictures) {
    if (pictures.size <= KEEP) return;
    if (url === null) continue;
    if (typeof url === "string") URL.revokeObjectURL(url);
    pictures.delete(address);
  }
}
