// What a project may say to an agent: text. kilo reads no project's configuration here, but still the older files of
// one (.kilocode/mcp.json, .kilocodemodes, workflows, .kilocodeignore), and those that lie in a home (docs/adr/0044).

import { existsSync } from "node:fs"
import { join } from "node:path"

const INSTRUCTIONS = ["AGENTS.md", "CLAUDE.md", "CONTEXT.md"]
const OURS = ["command", "default_agent", "disabled_providers", "enabled_providers", "mcp", "mode", "model", "permission", "provider", "small_model"]

// Leaves of a configuration what this server was started with, and the files of instructions in `directory`.
export function keepOurs(config, environment, directory) {
  const ours = JSON.parse(environment.KILO_CONFIG_CONTENT || "{}")
  for (const name of OURS) {
    if (name in ours) config[name] = ours[name]
    else if (name in config) config[name] = name === "enabled_providers" ? undefined : {}
  }
  config.agent = Object.fromEntries(
    Object.entries(ours.agent ?? {}).map(([name, agent]) => [name, { options: {}, permission: {}, ...agent }]),
  )
  if (directory) config.instructions = [...(config.instructions ?? []), instructions(directory)]
}

// The file that kilo would read itself; the first one may come later, and is looked for at each turn.
function instructions(directory) {
  const files = INSTRUCTIONS.map((name) => join(directory, name))
  return files.find((file) => existsSync(file)) ?? files[0]
}
