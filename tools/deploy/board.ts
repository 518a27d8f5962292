import type { Dashboard, Panel, RowPanel } from "@grafana/schema";

/** What a value looks like in JSON, which has the strings that an enum stands for and not the enum. */
type InJson<T> = T extends string
  ? `${T}`
  : T extends (infer Item)[]
    ? InJson<Item>[]
    : T extends object
      ? { [Key in keyof T]: InJson<T[Key]> }
      : T;

export type Board = Omit<InJson<Dashboard>, "panels"> & { panels: (InJson<Panel> | InJson<RowPanel>)[] };
