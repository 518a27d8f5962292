// Calls to the orchestrator as the agent whose server this is.

const SECONDS = 30

// An answer that says no; the message is fit for the model.
export class Refused extends Error {
  constructor(message, status) {
    super(message)
    this.status = status
  }
}

// Who this agent is and where its orchestrator answers, from the server's environment.
export function identityFrom(environment) {
  return {
    role: environment.GASTOWN_AGENT_ROLE,
    agent: environment.GASTOWN_AGENT_ID,
    rig: environment.GASTOWN_RIG_ID,
    town: environment.GASTOWN_TOWN_ID,
    url: (environment.GASTOWN_API_URL ?? "").replace(/\/+$/, ""),
    token: environment.GASTOWN_CONTAINER_TOKEN || environment.GASTOWN_SESSION_TOKEN || "",
  }
}

export class Client {
  #identity
  #token
  #refreshing = null

  constructor(identity) {
    this.#identity = identity
    this.#token = identity.token
  }

  // The answer's `data`, undefined for a 204. Throws `Refused`, or an Error when nothing answered.
  // A 401 refreshes the token once, however many calls run into it, and the call is sent again.
  async call(method, path, { body, query, signal } = {}) {
    const used = this.#token
    let answer = await this.#send(method, path, { body, query, signal })
    if (answer.status === 401 && (await this.#refresh(used))) {
      answer = await this.#send(method, path, { body, query, signal })
    }
    return read(answer)
  }

  async #send(method, path, { body, query, signal }) {
    const { url, agent, rig } = this.#identity
    if (!url) throw new Error("GASTOWN_API_URL is not set: this town has no orchestrator")
    const headers = { Authorization: `Bearer ${this.#token}`, "X-Gastown-Agent-Id": agent }
    if (rig) headers["X-Gastown-Rig-Id"] = rig
    if (body !== undefined) headers["Content-Type"] = "application/json"
    const asked = new URLSearchParams(query).toString()
    const limit = AbortSignal.timeout(SECONDS * 1000)
    try {
      return await fetch(url + path + (asked && `?${asked}`), {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
        redirect: "error", // a redirect would take the token elsewhere
      })
    } catch (error) {
      if (limit.aborted) throw new Error(`The orchestrator did not answer within ${SECONDS} s`)
      if (signal?.aborted) throw error
      throw new Error(`The orchestrator cannot be reached (${error.code ?? error.name})`)
    }
  }

  async #refresh(used) {
    if (this.#token !== used) return true // another call was faster
    this.#refreshing ??= this.#fetchToken().finally(() => (this.#refreshing = null))
    return this.#refreshing
  }

  async #fetchToken() {
    const path = `/api/towns/${this.#identity.town}/refresh-container-token`
    const answer = await this.#send("POST", path, { body: {} })
    if (!answer.ok) return false
    const token = (await answer.json().catch(() => null))?.data?.token
    if (typeof token !== "string" || !token) return false
    this.#token = token
    return true
  }
}

async function read(answer) {
  if (answer.status === 204) return undefined
  const body = await answer.json().catch(() => null)
  if (body === null || typeof body !== "object" || typeof body.success !== "boolean") {
    const said = typeof body?.error === "string" ? body.error : "its answer is not what was expected"
    throw new Refused(`The orchestrator answered ${answer.status}: ${said}`, answer.status)
  }
  if (!body.success) throw new Refused(String(body.error ?? "no reason given"), answer.status)
  return body.data
}
