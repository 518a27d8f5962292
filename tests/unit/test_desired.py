"""Of each credential the value that was given last counts, in whatever order things are said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gastown.agents.launch.desired import TOKEN_NAMES, ContainerDefaults, Desired, Effective, effective
from gastown.contract.agents import StartAgentRequest
from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth, TownConfig
from gastown.testing.town import start_request
from gastown.worker.tokens import Credentials, LiveCredentials

GIVEN = {"KILOCODE_TOKEN", "GITHUB_CLI_PAT"}
STEPS = st.lists(
    st.sampled_from(["start", "model", "organisation", "prompt", "token", "config", "config again"]), max_size=12
)


class Told:
    """A town with one agent, and beside it the plain record of what was given last."""

    def __init__(self) -> None:
        self.live = LiveCredentials(Credentials())
        self.desired = Desired(request("0"), self.live.next_generation())
        self.last: dict[str, Any] = {"organization": "org-0", **dict.fromkeys(GIVEN, "0")}
        self.config: dict[str, Any] = {}

    def take(self, step: str, number: str) -> None:
        generation = self.live.next_generation
        if step == "start":
            self.desired = Desired(request(number), generation())
            self.last = {"organization": f"org-{number}", **dict.fromkeys(GIVEN, number)}
        elif step == "model":
            self.desired = self.desired.change(generation(), {"model": f"test/{number}"})
        elif step == "organisation":
            self.desired = self.desired.change(generation(), {"model": "m", "organization_id": f"org-{number}"})
            self.last["organization"] = f"org-{number}"
        elif step == "prompt":
            self.desired = self.desired.change(generation(), {"system_prompt": number})
        elif step == "token":
            self.live.replace_token(Secret(number))
        elif step == "config":
            self.live.replace_town(config(number))
            self.last = {"organization": f"org-{number}", **dict.fromkeys(GIVEN, number)}
        else:  # the same configuration comes again with any request
            self.live.replace_town(self.live.current.town)

    def now(self) -> Effective:
        return effective(self.desired, self.live.current, ContainerDefaults(Secret("default"), "default"))


def request(number: str) -> StartAgentRequest:
    variables = dict.fromkeys(GIVEN, number)
    return StartAgentRequest.model_validate(
        start_request("pole-1", envVars=variables, organizationId=f"org-{number}")
    )


def config(number: str) -> TownConfig:
    return TownConfig(
        kilocode_token=Secret(number), github_cli_pat=Secret(number), organization_id=f"org-{number}"
    )


@given(steps=STEPS, reads=st.lists(st.booleans(), max_size=12))
@settings(max_examples=300)
def test_of_each_credential_the_one_given_last_counts_however_often_it_is_read(
    steps: list[str], reads: list[bool]
) -> None:
    told = Told()
    for number, step in enumerate(steps, 1):
        told.take(step, str(number))
        if reads[number - 1 : number] == [True]:
            assert told.now() == told.now()
    found = told.now()
    values = {name: found.tokens[name].reveal() for name in GIVEN}
    assert {"organization": found.organization, **values} == told.last


@given(order=st.permutations(range(4)))
def test_changes_that_arrive_out_of_order_end_with_the_newest_of_each_field(order: list[int]) -> None:
    changes = [
        (11, {"model": "a"}),
        (12, {"model": "b", "small_model": "b"}),
        (13, {"system_prompt": "c"}),
        (14, {"model": "d"}),
    ]
    desired = Desired(request("0"), given=10)
    for index in order:
        desired = desired.change(*changes[index])
    assert (desired.request.model, desired.request.small_model, desired.request.system_prompt) == ("d", "b", "c")


def test_a_configuration_that_gives_another_credential_does_not_give_this_one_again() -> None:
    live = LiveCredentials(Credentials())
    live.replace_town(TownConfig(kilocode_token=Secret("of-the-town")))
    desired = Desired(request("of-the-start"), live.next_generation())
    live.replace_town(TownConfig(kilocode_token=Secret("of-the-town"), git_auth=GitAuth(github_token="git")))
    found = effective(desired, live.current, ContainerDefaults())
    assert (found.gateway, found.tokens["GIT_TOKEN"]) == (Secret("of-the-start"), Secret("git"))


@pytest.mark.parametrize("name", TOKEN_NAMES)
def test_an_empty_value_gives_nothing(name: str) -> None:
    live = LiveCredentials(Credentials())
    bare = StartAgentRequest.model_validate(start_request("pole-1", envVars={name: ""}))
    desired = Desired(bare, live.next_generation(), inherited={name: Secret("stored")})
    assert effective(desired, live.current, ContainerDefaults()).tokens[name] == Secret("stored")
