"""A two-node flow over 1,000 users, 10 at a time: fixed, adaptive, and with limits nested in limits. In virtual time."""

import argparse
import asyncio
import sys

from pocketflow import AsyncNode

from pocketflow_throttled import (
    AdaptiveThrottledBatchFlow,
    SimulatedAPI,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    run_virtual,
)

USERS = 1000


class Load(AsyncNode):
    async def exec_async(self, _):
        await asyncio.sleep(0.1)
        return f"profile of user {self.params['user']}"

    async def post_async(self, shared, prep_res, exec_res):
        shared["profiles"][self.params["user"]] = exec_res


class Advise(AsyncNode):
    def __init__(self, api):
        super().__init__()
        self.api = api

    async def prep_async(self, shared):
        return shared["profiles"][self.params["user"]]

    async def exec_async(self, profile):
        return await self.api.call(profile)  # a refusal is for the flow to handle

    async def post_async(self, shared, prep_res, exec_res):
        shared["advice"][self.params["user"]] = exec_res


class Users:
    async def prep_async(self, shared):
        return ({"user": user} for user in range(USERS))


class Fixed(Users, ThrottledAsyncParallelBatchFlow):
    max_concurrent_flows = 10


class Adaptive(Users, AdaptiveThrottledBatchFlow):
    initial_concurrent_flows = 10
    max_concurrent_flows = 50
    max_flow_retries = 100


class Documents(ThrottledParallelBatchNode):
    """Three calls at once for each user."""

    max_concurrent = 3

    def __init__(self, api):
        super().__init__()
        self.api = api

    async def prep_async(self, shared):
        return range(6)

    async def exec_async(self, document):
        return await self.api.call(document)


def run(flow):
    shared = {"profiles": {}, "advice": {}}

    async def timed():
        await flow.run_async(shared)
        return asyncio.get_running_loop().time()

    return run_virtual(timed()), shared


def two_nodes(api):
    load = Load()
    load >> Advise(api)
    return load


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    held = True

    api = SimulatedAPI(max_concurrent=10, latency=1.0)
    seconds, shared = run(Fixed(start=two_nodes(api)))
    held &= len(shared["advice"]) == USERS and api.refused == 0
    print(f"Fixed, 10 at once: {len(shared['advice'])} users in {seconds:.0f} s of virtual time, {api.refused} refused.")

    api = SimulatedAPI(max_concurrent=25, latency=1.0)
    flow = Adaptive(start=two_nodes(api))
    seconds, shared = run(flow)
    held &= len(shared["advice"]) == USERS and api.refused < 50 and seconds < 60
    limit = flow.current_concurrent_flows
    print(f"Adaptive, limit unknown: {len(shared['advice'])} users in {seconds:.0f} s, {api.refused} refused, ended at {limit}.")

    api = SimulatedAPI(latency=1.0)
    run(Fixed(start=Documents(api), max_concurrent_flows=5))
    held &= api.peak_concurrent == 15 and api.served == 6 * USERS
    print(f"Nested, 5 users x 3 calls: at most {api.peak_concurrent} calls at once, {api.served} in all.")

    print("All of it held." if held else "Something did not hold.")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
