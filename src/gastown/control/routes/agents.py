"""`/agents/…`: starts, stops, messages, models, status and events."""

from __future__ import annotations

from contextlib import ExitStack

import trio
from quart import Blueprint, Response, request

from gastown.agents.agent import Agent
from gastown.agents.attempts import StartAnswer
from gastown.agents.launch.desired import MOST_BYTES, MOST_BYTES_TOGETHER, size_of
from gastown.agents.launch.repositories import write_instructions
from gastown.agents.lifecycle.restart import change_model
from gastown.contract.agents import (
    ATTEMPT_HEADER,
    AgentList,
    AgentStatus,
    MessageRequest,
    ModelRequest,
    PublicAgent,
    StartAgentRequest,
    StopAnswer,
    StopRequest,
    SystemPromptRequest,
)
from gastown.contract.errors import (
    AgentNotFound,
    ControlError,
    InstructionsNotWritten,
    InvalidRequest,
    Issue,
    StartDeadlineExceeded,
)
from gastown.contract.events import EventPage
from gastown.contract.identifiers import is_identifier
from gastown.contract.town import MessageSent, Updated
from gastown.control.context import Town, town
from gastown.control.requests import check_town, event_id, parse, pass_gate
from gastown.control.responses import reply
from gastown.control.route_table import Routes
from gastown.git.errors import GitError

__all__ = ["blueprint", "routes"]

blueprint = Blueprint("agents", __name__)
routes = Routes(blueprint)


@routes.post("/agents/start", body=StartAgentRequest, answers={201: PublicAgent}, gated=True)
async def start() -> Response:
    """Start an agent, replacing another attempt of the same id. Answers when its first turn is open.

    A start that a newer one replaces is answered 409 with the `attemptId` of the newer one. A request that differs
    from the start in flight only in its credentials joins it, and both get its answer. With the header
    `X-Attempt-Id`, the same id gets the same answer until ten minutes after the start has ended, failures
    included; a start with another id replaces.
    """
    arrival = trio.current_time()
    attempt = _attempt_id()
    body = await parse(StartAgentRequest)
    here = town()
    check_town(here, body.town_id)
    _check_variables(body)
    answer = _kept(here, body, attempt)
    if answer is None:
        answer = await _answer(here, body, attempt, arrival)
    if isinstance(answer, ControlError):
        raise answer.again()
    return reply(answer, 201)


def _attempt_id() -> str | None:
    given = request.headers.get(ATTEMPT_HEADER)
    if given is not None and not is_identifier(given):
        raise InvalidRequest([Issue(path=(ATTEMPT_HEADER,), message="must be an identifier, as an agentId is")])
    return given


def _check_variables(body: StartAgentRequest) -> None:
    """Not in the model: an agent of a registry is brought back, without the variables that it cannot have."""
    sizes = {name: size_of(name, value) for name, value in body.env_vars.items()}
    issues = [
        Issue(
            path=("envVars", name),
            message=f"NAME=value has {size} bytes: no command starts with more than {MOST_BYTES}; use a file",
        )
        for name, size in sizes.items()
        if size > MOST_BYTES
    ]
    if not issues and sum(sizes.values()) > MOST_BYTES_TOGETHER:
        message = (
            f"the variables have more than {MOST_BYTES_TOGETHER} bytes together: use a file for the large ones"
        )
        issues = [Issue(path=("envVars",), message=message)]
    if issues:
        raise InvalidRequest(issues)


def _kept(here: Town, body: StartAgentRequest, attempt: str | None) -> StartAnswer | None:
    return None if attempt is None else here.roster.attempts.recall(body.agent_id, attempt)


async def _answer(here: Town, body: StartAgentRequest, attempt: str | None, arrival: float) -> StartAnswer:
    """Begin or join the start, and wait for its answer until the caller gives up."""
    seconds = here.start_seconds - here.start_margin
    _check_drain(here, body)
    agent: Agent | None = None
    with trio.move_on_at(arrival + seconds) as budget, ExitStack() as resumes_held:
        if body.is_mayor:
            resumes_held.enter_context(here.services.pool.slots.hold_resumes())
        try:
            given = await pass_gate(here)
        except BaseException:  # a Cancelled, or a group of them
            if not budget.cancel_called:  # the client has left
                here.roster.starts.at_the_gate(body.role, "ended")
            raise
        if (answer := _kept(here, body, attempt)) is not None:
            return answer
        _check_drain(here, body)
        agent = here.roster.begin(body, deadline=arrival + seconds, seconds=seconds, attempt=attempt, given=given)
        await agent.settled.wait()
    attempts = here.roster.attempts
    if agent is None:
        here.roster.starts.at_the_gate(body.role, "deadline")
        late = StartDeadlineExceeded(body.agent_id, "gate", seconds)
        return late if attempt is None else attempts.keep(body.agent_id, attempt, late)
    if agent.settled.is_set():
        return attempts.answer_of(agent)
    ended = agent.scope.cancel_called  # or it has a later deadline than this caller, who joined it
    late = StartDeadlineExceeded(body.agent_id, agent.phases.current, seconds, ended=ended)
    return attempts.keep(agent.id, agent.attempt, late) if ended else late


def _check_drain(here: Town, body: StartAgentRequest) -> None:
    if here.drain.is_set:
        here.roster.starts.at_the_gate(body.role, "refused")
    here.drain.check()


@routes.post("/agents/<agent_id>/stop", body=StopRequest, answers={200: StopAnswer}, body_optional=True)
async def stop(agent_id: str) -> Response:
    """Stop an agent in any state, also one that is starting. Answers when nothing of it is left, and what it has
    not pushed is saved, for a minute at most.

    With `{"final": true}` its files may be removed later; that can also be said of an agent that has ended, and
    of one of an earlier container on the same disk.
    """
    here = town()
    try:
        body = await parse(StopRequest, absent=StopRequest())
    except InvalidRequest:
        body = StopRequest()  # any body stops
    unknown: AgentNotFound | None = None
    answer = StopAnswer()
    try:
        answer = await here.roster.stop(agent_id)
    except AgentNotFound as error:
        unknown = error
    has_files = body.final and await here.retention.finish(agent_id)
    if unknown is not None and not has_files:
        raise unknown
    if body.final:
        here.background.start("retention", here.retention.run)
    return reply(answer, without_unset=True)


@routes.post("/agents/<agent_id>/message", body=MessageRequest, answers={200: MessageSent})
async def message(agent_id: str) -> Response:
    """Give a running agent a prompt."""
    body = await parse(MessageRequest)
    await town().roster.message(agent_id, body.prompt)
    return reply(MessageSent())


@routes.patch("/agents/<agent_id>/model", body=ModelRequest, answers={200: Updated}, gated=True)
async def model(agent_id: str) -> Response:
    """Change an agent's model from its next turn on; the session survives."""
    body = await parse(ModelRequest)
    here = town()
    here.roster.get(agent_id)
    given = await pass_gate(here)
    await change_model(here.roster.get(agent_id), here.services, body, given)
    return reply(Updated())


@routes.put("/agents/<agent_id>/system-prompt", body=SystemPromptRequest, answers={200: Updated})
async def system_prompt(agent_id: str) -> Response:
    """Change an agent's system prompt from its next prompt on.

    It goes with each prompt. For agents without a repository, the mayor and triage, it is written as AGENTS.md
    into their working directory, where kilo reads it at each turn; a repository's own AGENTS.md stays as it is.
    """
    body = await parse(SystemPromptRequest)
    agent = town().roster.get(agent_id)
    services = town().services
    agent.change(services.credentials.next_generation(), {"system_prompt": body.system_prompt})
    agent.announce()
    try:
        await write_instructions(agent, services)
    except GitError as error:
        raise InstructionsNotWritten(agent.id, str(error)) from error
    return reply(Updated())


@routes.get("/agents", answers={200: AgentList})
async def agents() -> Response:
    """Every agent that this container knows, with its status; the mayor comes first."""
    return reply(town().roster.listed())


@routes.get("/agents/<agent_id>/status", answers={200: AgentStatus})
async def status(agent_id: str) -> Response:
    """What an agent is doing."""
    return reply(town().roster.status(agent_id))


@routes.get("/agents/<agent_id>/events", answers={200: EventPage})
async def events(agent_id: str) -> Response:
    """The kept events of an agent after the id in `after`; an unknown agent has none."""
    last = event_id(request.args.get("after"))
    return reply(EventPage(events=town().services.events.after(agent_id, last or 0)))
