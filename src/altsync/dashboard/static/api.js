// The server's answers, or an Error with its sentence.

async function read(response) {
  let body = {};
  try { body = await response.json(); } catch { /* no JSON: the status says enough */ }
  if (!response.ok) throw new Error(body.error ?? `the dashboard answered ${response.status}`);
  return body;
}

async function ask(path, init) {
  let response;
  try {
    response = await fetch(path, { ...init, credentials: "same-origin", cache: "no-store" });
  } catch {
    throw new Error("the dashboard does not answer");
  }
  return read(response);
}

export function get(name, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(given).toString();
  return ask(`/api/${name}${text ? `?${text}` : ""}`);
}

// The token is asked for each time: a dashboard that was restarted has a new one.
export async function post(name, body) {
  const { csrf_token: token } = await get("session");
  return ask(`/api/${name}`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-csrf-token": token },
    body: JSON.stringify(body),
  });
}
