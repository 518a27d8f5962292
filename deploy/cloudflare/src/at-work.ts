/** Whether an agent of a town is at work. */

/** The conditions of a start and of an open turn; not of one that has waited ten minutes for an answer of a person. */
const AT_WORK = /^gastown_agent_conditions\{condition="(busy|retrying|starting|stalled|wedged|offline)"\} [1-9]/m;

/**
 * Read it from the town's metrics, which `ask` requests. A town that does not say is taken to be at work: a
 * container that stays costs money, one that leaves by mistake costs every agent its turn.
 */
export async function isAtWork(ask: () => Promise<Response>): Promise<boolean> {
  try {
    const answer = await ask();
    if (!answer.ok) throw new Error(`GET /metrics: ${answer.status}`);
    return AT_WORK.test(await answer.text());
  } catch (error) {
    console.warn("the town does not say whether it works, and stays", error);
    return true;
  }
}
