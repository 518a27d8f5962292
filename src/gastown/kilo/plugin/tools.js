// The table of tools made into kilo's tools. kilo checks no argument, so it is done here.

import { readFileSync } from "node:fs"
import { Refused } from "./client.js"

const OURS = new Set(["optional", "default", "id", "json", "as"])
const IDENTIFIER = /^(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._:@-]{0,127}$/

export const TABLE = JSON.parse(readFileSync(new URL("./tools.json", import.meta.url), "utf8")).tools

// The tools of this agent; none when the server does not know who it works for.
export function toolsOf(identity) {
  if (!identity.agent || !identity.town) return []
  if (identity.role === "mayor") return TABLE.filter((tool) => tool.role === "mayor")
  return identity.role && identity.rig ? TABLE.filter((tool) => tool.role === "rig") : []
}

// What kilo registers for a tool. The result is text for the model; a failure is thrown as a sentence.
export function register(tool, client, identity) {
  return {
    description: tool.description,
    args: Object.fromEntries(Object.entries(tool.args).map(([name, spec]) => [name, schema(spec)])),
    execute: async (given, context) => run(tool, client, identity, given ?? {}, context?.abort),
  }
}

// The names that must be given. kilo makes all of them so; its hook `tool.definition` sets that right.
export function required(tool) {
  return Object.keys(tool.args).filter((name) => !tool.args[name].optional)
}

async function run(tool, client, identity, given, signal) {
  const { method, path, query, body } = request(tool, identity, given)
  let data
  try {
    data = await client.call(method, path, { query, body, signal })
  } catch (error) {
    if (error instanceof Refused && error.status === 404 && tool.none) return tool.none
    throw error
  }
  const shown = data === undefined || data === null ? "" : JSON.stringify(data, null, 2)
  return [tool.says, shown].filter(Boolean).join("\n") || "Done."
}

// Where a call goes and what it carries.
export function request(tool, identity, given) {
  const values = checked(tool, given)
  let { method, path } = tool
  if (tool.many && Array.isArray(values[tool.many.of])) {
    ;({ method, path } = tool.many)
    values[tool.many.as] = values[tool.many.of]
    delete values[tool.many.of]
  }
  path = path.replace(/\{([^}]+)\}/g, (_, name) => {
    const value = name.startsWith("$") ? identity[name.slice(1)] : values[name]
    delete values[name]
    return encodeURIComponent(value)
  })
  if (method === "GET") return { method, path, query: values }
  const added = Object.entries(tool.adds ?? {}).map(([name, from]) => [name, identity[from.slice(2, -1)]])
  const body = { ...values, ...Object.fromEntries(added) }
  return { method, path, body: Object.keys(body).length ? body : undefined }
}

// The arguments under the names that the orchestrator knows. Empty text and null stand for an absent one.
function checked(tool, given) {
  const values = {}
  for (const [name, spec] of Object.entries(tool.args)) {
    let value = given[name]
    if (value === null || value === "" || value === undefined) {
      if (!spec.optional) throw new Error(`${tool.name}: ${name} is missing`)
      if (spec.default === undefined) continue
      value = spec.default
    }
    const fault = faultOf(value, spec, name)
    if (fault) throw new Error(`${tool.name}: ${fault}`)
    values[spec.as ?? name] = spec.json ? parsed(value, name, tool) : value
  }
  return values
}

function parsed(text, name, tool) {
  try {
    return JSON.parse(text)
  } catch {
    throw new Error(`${tool.name}: ${name} is not valid JSON`)
  }
}

// What is wrong with a value, as a sentence; null when nothing is.
function faultOf(value, spec, where) {
  if (spec.anyOf) {
    const faults = spec.anyOf.map((one) => faultOf(value, one, where))
    return faults.includes(null) ? null : faults[Array.isArray(value) ? faults.length - 1 : 0]
  }
  if (!isA(value, spec.type)) return `${where} must be ${spec.type === "array" ? "a list" : spec.type === "object" ? "an object" : `of type ${spec.type}`}`
  if (spec.enum && !spec.enum.includes(value)) return `${where} must be one of ${spec.enum.join(", ")}`
  if (spec.id && !IDENTIFIER.test(value)) return `${where} is not an id`
  if (spec.minimum !== undefined && value < spec.minimum) return `${where} must be ${spec.minimum} or more`
  if (spec.type === "array") return faultOfList(value, spec, where)
  if (spec.properties) return faultOfObject(value, spec, where)
  return null
}

function isA(value, type) {
  if (type === "array") return Array.isArray(value)
  if (type === "integer") return Number.isInteger(value)
  if (type === "object") return typeof value === "object" && value !== null && !Array.isArray(value)
  return typeof value === type
}

function faultOfList(values, spec, where) {
  if (values.length < (spec.minItems ?? 0)) return `${where} must have at least ${spec.minItems}`
  if (values.length > (spec.maxItems ?? Infinity)) return `${where} must have at most ${spec.maxItems}`
  for (const [index, value] of values.entries()) {
    const fault = faultOf(value, spec.items, `${where}[${index}]`)
    if (fault) return fault
  }
  return null
}

function faultOfObject(value, spec, where) {
  for (const name of spec.required ?? []) {
    if (value[name] === undefined || value[name] === null || value[name] === "") return `${where}.${name} is missing`
  }
  for (const [name, inner] of Object.entries(spec.properties)) {
    if (value[name] === undefined || value[name] === null) continue
    const fault = faultOf(value[name], inner, `${where}.${name}`)
    if (fault) return fault
  }
  return null
}

// A specification as the model gets it: without our own keys, at any depth.
function schema(spec) {
  if (Array.isArray(spec)) return spec.map(schema)
  if (typeof spec !== "object" || spec === null) return spec
  const kept = Object.entries(spec).filter(([name]) => !OURS.has(name))
  const whole = Object.fromEntries(kept.map(([name, value]) => [name, schema(value)]))
  if (spec.optional) whole.description = `Optional. ${spec.description}`
  return whole
}
