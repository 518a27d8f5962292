// The plugin of an agent's kilo server: its tools, what it should know, and its shell's environment.
// Plain JavaScript without packages. kilo calls each export of this file, so there is one.

import { Client, identityFrom } from "./client.js"
import { dashboard, isBlock, prime } from "./context.js"
import { keepOurs } from "./project.js"
import { register, required, toolsOf } from "./tools.js"

const ENVIRONMENT_SECONDS = 2

export const Gastown = async ({ directory } = {}) => {
  const identity = identityFrom(process.env)
  const tools = toolsOf(identity)
  const client = new Client(identity)
  const isMayor = identity.role === "mayor"
  const isRigAgent = !isMayor && tools.length > 0
  const demands = new Map(tools.map((tool) => [tool.name, required(tool)]))
  const primed = new Map() // session: its context, until the next compaction

  const ownPath = `/api/towns/${identity.town}/rigs/${identity.rig}/agents/${identity.agent}`

  async function primeOf(session) {
    if (!primed.has(session)) primed.set(session, prime(await client.call("GET", `${ownPath}/prime`)))
    return primed.get(session)
  }

  const hooks = {
    config: async (config) => keepOurs(config, process.env, directory),

    tool: Object.fromEntries(tools.map((tool) => [tool.name, register(tool, client, identity)])),

    "tool.definition": async ({ toolID }, output) => {
      if (demands.has(toolID) && output.jsonSchema) {
        output.jsonSchema = { ...output.jsonSchema, required: demands.get(toolID), additionalProperties: false }
      }
    },
  }

  if (isMayor) {
    hooks["experimental.chat.system.transform"] = async ({ sessionID }, output) => {
      if (forTitle(sessionID)) return
      const shown = await dashboard(process.env.GASTOWN_DASHBOARD_FILE)
      replace(output.system, "DASHBOARD", shown)
    }
  }

  if (isRigAgent) {
    hooks["experimental.chat.system.transform"] = async ({ sessionID }, output) => {
      if (!sessionID || forTitle(sessionID)) return
      try {
        replace(output.system, "CONTEXT", await primeOf(sessionID))
      } catch (error) {
        console.error(`gastown plugin: no context for the agent: ${error.message}`) // and asked for again next time
      }
    }
    hooks["experimental.session.compacting"] = async ({ sessionID }) => {
      primed.delete(sessionID)
    }
    hooks.event = async ({ event }) => {
      if (event.type !== "session.deleted") return
      const { sessionID, info } = event.properties
      primed.delete(sessionID)
      if (info?.parentID) return // a helper of the agent's, not its own conversation
      const data = { session_ended: true, session_id: sessionID, ended_at: new Date().toISOString() }
      await client.call("POST", `${ownPath}/checkpoint`, { body: { data } }).catch((error) => {
        console.error(`gastown plugin: no checkpoint at the session's end: ${error.message}`)
      })
    }
  }

  if (process.env.GASTOWN_BROKER_URL) hooks["shell.env"] = liveEnvironment(process.env)
  return hooks
}

// The session of a title is no conversation of the agent's.
function forTitle(session) {
  return String(session).startsWith("title-")
}

function replace(system, name, text) {
  for (let index = system.length - 1; index >= 0; index--) {
    if (isBlock(system[index], name)) system.splice(index, 1)
  }
  if (text) system.push(text)
}

// What changes while the server lives, asked of the broker before each command. A command never fails for it:
// without an answer it gets what the one before had.
function liveEnvironment({ GASTOWN_BROKER_URL: url, GASTOWN_CONTAINER_TOKEN: token }) {
  let known = {}
  return async (_, output) => {
    // The server's own lies in the agent's home; git and others look where they do everywhere.
    if (process.env.HOME) output.env.XDG_CONFIG_HOME = `${process.env.HOME}/.config`
    try {
      const answer = await fetch(`${url}/broker/environment`, {
        headers: { Authorization: `Bearer ${token}` },
        signal: AbortSignal.timeout(ENVIRONMENT_SECONDS * 1000),
      })
      if (!answer.ok) throw new Error(`status ${answer.status}`)
      known = (await answer.json()).variables
    } catch (error) {
      console.error(`gastown plugin: the shell's environment is the one before: ${error.message}`)
    }
    Object.assign(output.env, known)
  }
}
