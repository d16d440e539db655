"""Add the agent of a finished run to the agents that come with the package.

python examples/ship_agent.py runs/point_robot-repo/ctmrl-brac_sac-quick-seed0 point_robot

`Agent.load("point_robot")` then works in every installation. All shipped agents together stay below 2 MB.
`python -m pytest tests/agents/test_shipped.py` adapts the new agent and compares its returns with its card; add
`-m slow` for an environment with long episodes.
"""

from __future__ import annotations

import argparse
import shutil

from ctmrl_torchrl.agents import Agent, AgentError
from ctmrl_torchrl.agents.shipped import SHIPPED, require_room, shipping_facts


def main() -> None:
    """Copy the agent, complete its card, and check the size of all agents."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("name", help="the agent's name, usually that of its environment")
    arguments = parser.parse_args()
    folder = SHIPPED / arguments.name
    is_new = not folder.exists()
    try:
        agent = Agent.load(arguments.run).with_card(**shipping_facts(arguments.run))
        agent.save(folder)
        total = require_room()
    except AgentError as error:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise SystemExit(str(error)) from error
    print(f"{folder}: {agent}; all shipped agents take {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
