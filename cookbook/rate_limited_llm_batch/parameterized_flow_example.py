"""Each instance of a flow with parameters of its own: users, documents and regions. In virtual time."""

import argparse
import itertools
import sys

from pocketflow import AsyncNode

from pocketflow_throttled import SimulatedAPI, ThrottledAsyncParallelBatchFlow, run_virtual

USERS = ("Ann", "Bo", "Cy")
DOCUMENTS = ("contract", "invoice")
REGIONS = ("eu", "us")


class Review(AsyncNode):
    def __init__(self, api):
        super().__init__()
        self.api = api

    async def exec_async(self, _):
        user, document, region = (self.params[key] for key in ("user", "document", "region"))
        return await self.api.call(
            reply=f"{user}'s {document}, reviewed under the rules of {region} in {self.params['language']}"
        )

    async def post_async(self, shared, prep_res, exec_res):
        return exec_res


class ReviewAll(ThrottledAsyncParallelBatchFlow):
    max_concurrent_flows = 4

    async def prep_async(self, shared):
        combinations = itertools.product(USERS, DOCUMENTS, REGIONS)
        return [{"user": user, "document": document, "region": region} for user, document, region in combinations]

    async def post_async(self, shared, prep_res, exec_res_list):
        shared["reviews"] = exec_res_list


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    api = SimulatedAPI(max_concurrent=4, latency=1.0)
    flow = ReviewAll(start=Review(api))
    flow.set_params({"language": "English"})  # for every instance
    shared = {}
    run_virtual(flow.run_async(shared))
    for review in shared["reviews"]:
        print(review)
    expected = len(USERS) * len(DOCUMENTS) * len(REGIONS)
    held = len(set(shared["reviews"])) == expected == api.served and api.refused == 0
    print(f"{api.served} instances, {api.peak_concurrent} at once, {api.refused} refused, in virtual time.")
    print("Each had its own parameters." if held else "An instance had another's parameters, or was refused.")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
