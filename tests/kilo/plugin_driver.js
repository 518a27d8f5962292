// Plays kilo to the plugin: a JSON command a line on stdin, a JSON answer a line on stdout.
import { createInterface } from "node:readline"

const { Gastown } = await import(process.argv[2])
const hooks = await Gastown({})
const missing = (name) => Promise.reject(new Error(`no hook ${name}`))
const hook = (name, ...rest) => (hooks[name] ? hooks[name](...rest) : missing(name))

const commands = {
  hooks: async () => Object.keys(hooks).sort(),
  tools: async () => {
    const found = {}
    for (const [name, tool] of Object.entries(hooks.tool)) {
      const output = { description: tool.description, jsonSchema: { type: "object", properties: tool.args, required: Object.keys(tool.args) } }
      await hooks["tool.definition"]({ toolID: name }, output)
      found[name] = output
    }
    return found
  },
  call: async ({ tool, args }) => hooks.tool[tool].execute(args, { abort: new AbortController().signal }),
  system: async ({ session, system }) => {
    await hook("experimental.chat.system.transform", { sessionID: session }, { system })
    return system
  },
  compact: async ({ session }) => hook("experimental.session.compacting", { sessionID: session }, { context: [] }),
  event: async ({ event }) => hook("event", { event }),
  shell: async () => {
    const output = { env: {} }
    await hook("shell.env", { cwd: "/" }, output)
    return output.env
  },
}

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...rest } = JSON.parse(line)
  const said = await commands[command](rest).then((value) => ({ value: value ?? null }), (error) => ({ error: error.message }))
  process.stdout.write(`${JSON.stringify(said)}\n`)
}
