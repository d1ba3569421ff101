"""PocketFlow programs as people write them, each a function of the two base classes that is run and returns its shared store."""

import asyncio
import contextvars
import copy
from typing import Any

from pocketflow import AsyncFlow, AsyncNode, AsyncParallelBatchFlow, AsyncParallelBatchNode, Flow, Node

Base = type[AsyncParallelBatchNode]
FlowBase = type[AsyncParallelBatchFlow]
Shared = dict[str, Any]

TEXT = " ".join(f"Sentence {number} says something." for number in range(40))


async def ask(prompt: str) -> str:
    """A model whose answers take a second for every ten characters, so that short prompts overtake long ones."""
    await asyncio.sleep(len(prompt) % 97 / 10)
    return f"<{prompt[:20]}>"


async def embed(text: str) -> list[int]:
    await asyncio.sleep(len(text) % 7)
    return [len(text), sum(map(ord, text)) % 1000]


async def map_reduce_summary(base: Base, flow_base: FlowBase) -> Shared:
    class Split(Node):
        def prep(self, shared: Shared) -> str:
            return shared["text"]

        def exec(self, text: str) -> list[str]:
            return [text[at : at + 100] for at in range(0, len(text), 100)]

        def post(self, shared: Shared, prep_res: str, exec_res: list[str]) -> str:
            shared["chunks"] = exec_res
            return "default"

    class Summarize(base):
        async def prep_async(self, shared: Shared) -> Any:
            return list(enumerate(shared["chunks"]))

        async def exec_async(self, item: tuple[int, str]) -> str:
            number, chunk = item
            return f"{number}: {await ask(chunk)}"

        async def post_async(self, shared: Shared, prep_res: Any, exec_res_list: list[str]) -> str:
            assert isinstance(exec_res_list, list)
            shared["summaries"] = exec_res_list
            return "default" if len(exec_res_list) > 1 else "short"

    class Reduce(AsyncNode):
        async def prep_async(self, shared: Shared) -> str:
            return "\n".join(shared["summaries"])

        async def exec_async(self, summaries: str) -> str:
            return await ask(summaries)

        async def post_async(self, shared: Shared, prep_res: str, exec_res: str) -> None:
            shared["summary"] = exec_res

    split, summarize, reduce = Split(), Summarize(max_retries=3, wait=1), Reduce()
    split >> summarize
    summarize - "default" >> reduce
    summarize - "short" >> AsyncNode()
    shared = {"text": TEXT}
    await AsyncFlow(start=split).run_async(shared)
    return shared


async def translate_into_languages(base: Base, flow_base: FlowBase) -> Shared:
    class Translate(base):
        async def prep_async(self, shared: Shared) -> Any:
            return ((shared["text"], language) for language in shared["languages"])

        async def exec_async(self, item: tuple[str, str]) -> dict[str, str]:
            text, language = item
            return {"language": language, "translation": await ask(f"{language}: {text}")}

        async def post_async(self, shared: Shared, prep_res: Any, exec_res_list: list[dict[str, str]]) -> None:
            for result in exec_res_list:
                shared["files"].append((f"README_{result['language']}.md", result["translation"]))

    shared = {"text": TEXT, "languages": "Chinese Spanish Japanese German Russian French".split(), "files": []}
    await Translate().run_async(shared)
    return shared


async def embed_chunks_through_failures(base: Base, flow_base: FlowBase) -> Shared:
    tried: dict[int, int] = {}

    class Embed(base):
        async def prep_async(self, shared: Shared) -> Any:
            return range(30)

        async def exec_async(self, number: int) -> Any:
            tried[number] = tried.get(number, 0) + 1
            vector = await embed("x" * number)
            if number % 5 == 0 and tried[number] < 3:
                raise ConnectionError("reset by peer")
            return vector if number % 7 else None

        async def post_async(self, shared: Shared, prep_res: Any, exec_res_list: Any) -> None:
            shared["vectors"], shared["tried"] = exec_res_list, tried

    shared: Shared = {}
    await Embed(5, 2).run_async(shared)
    return shared


async def fallback_answers(base: Base, flow_base: FlowBase) -> Shared:
    class Ask(base):
        async def prep_async(self, shared: Shared) -> Any:
            return ["good", "bad", "ugly"]

        async def exec_async(self, item: str) -> str:
            await asyncio.sleep(len(item))
            if item == "bad":
                raise ValueError(f"cannot do {item}")
            return item.upper()

        async def exec_fallback_async(self, item: str, exc: Exception) -> str:
            return f"{item}: {exc!r}"

        async def post_async(self, shared: Shared, prep_res: Any, exec_res_list: Any) -> None:
            shared.update(zip(prep_res, exec_res_list, strict=True))

    shared: Shared = {}
    await Ask(max_retries=2).run_async(shared)
    return shared


async def the_error_of_a_batch(base: Base, flow_base: FlowBase) -> Shared:
    class Ask(base):
        async def prep_async(self, shared: Shared) -> Any:
            return [3, 0, 2]

        async def exec_async(self, item: int) -> float:
            await asyncio.sleep(item)
            return 6 / item

    shared: Shared = {}
    try:
        await Ask(max_retries=2, wait=0.1).run_async(shared)
    except ZeroDivisionError as error:
        shared["error"] = str(error)
    return shared


async def rag_indexing_and_query(base: Base, flow_base: FlowBase) -> Shared:
    class Load(AsyncNode):
        async def prep_async(self, shared: Shared) -> str:
            return shared["files"][self.params["name"]]

        async def exec_async(self, text: str) -> list[str]:
            await asyncio.sleep(len(text) % 3)
            return [text[at : at + 50] for at in range(0, len(text), 50)]

        async def post_async(self, shared: Shared, prep_res: str, exec_res: list[str]) -> None:
            shared["chunks"][self.params["name"]] = exec_res

    class Embed(base):
        async def prep_async(self, shared: Shared) -> list[str]:
            return shared["chunks"][self.params["name"]]

        async def exec_async(self, chunk: str) -> list[int]:
            return await embed(f"{self.params['model']} {chunk}")

        async def post_async(self, shared: Shared, prep_res: list[str], exec_res_list: list[list[int]]) -> None:
            shared["index"][self.params["name"]] = list(zip(prep_res, exec_res_list, strict=True))

    class Index(flow_base):
        async def prep_async(self, shared: Shared) -> list[dict[str, str]]:
            return [{"name": name} for name in shared["files"]]

        async def post_async(self, shared: Shared, prep_res: Any, exec_res: Any) -> str:
            shared["indexed"] = len(prep_res)
            return "default"

    class Query(AsyncNode):
        async def exec_async(self, _: Any) -> list[int]:
            return await embed("what?")

        async def post_async(self, shared: Shared, prep_res: Any, vector: list[int]) -> None:
            every = [(name, chunk, found) for name, chunks in sorted(shared["index"].items()) for chunk, found in chunks]
            shared["answer"] = min(every, key=lambda entry: abs(entry[2][1] - vector[1]))

    load = Load()
    load >> Embed()
    index = Index(start=load)
    index.set_params({"model": "small"})
    index >> Query()
    flow = AsyncFlow(start=index)
    flow.set_params({"model": "small"})
    shared: Shared = {"files": {f"file{n}.md": TEXT[: 60 + 111 * n] for n in range(12)}, "chunks": {}, "index": {}}
    await flow.run_async(shared)
    return shared


async def agent_with_a_loop(base: Base, flow_base: FlowBase) -> Shared:
    class Decide(AsyncNode):
        async def prep_async(self, shared: Shared) -> int:
            return len(shared["context"])

        async def exec_async(self, known: int) -> str:
            await asyncio.sleep(1)
            return "search" if known < 12 else "answer"

        async def post_async(self, shared: Shared, prep_res: int, exec_res: str) -> str:
            shared["queries"] = [f"query {prep_res + n}" for n in range(4)]
            return exec_res

    class Search(base):
        async def prep_async(self, shared: Shared) -> list[str]:
            return shared["queries"]

        async def exec_async(self, query: str) -> str:
            return await ask(query)

        async def post_async(self, shared: Shared, prep_res: list[str], exec_res_list: list[str]) -> str:
            shared["context"] += exec_res_list
            shared["rounds"] = shared.get("rounds", 0) + 1
            return "decide"

    class Answer(AsyncNode):
        async def post_async(self, shared: Shared, prep_res: Any, exec_res: Any) -> None:
            shared["answer"] = " ".join(shared["context"])

    decide, search = Decide(), Search(max_retries=2)
    decide - "search" >> search
    decide - "answer" >> Answer()
    search - "decide" >> decide
    shared: Shared = {"context": []}
    await AsyncFlow(start=decide).run_async(shared)
    return shared


async def nested_batch_flows(base: Base, flow_base: FlowBase) -> Shared:
    class Grade(AsyncNode):
        async def exec_async(self, _: Any) -> int:
            await asyncio.sleep(self.params["student"] % 3)
            return 10 * self.params["school"] + self.params["student"]

        async def post_async(self, shared: Shared, prep_res: Any, exec_res: int) -> str:
            shared["grades"][(self.params["school"], self.params["year"], self.params["student"])] = exec_res
            return "ok"

    class Students(flow_base):
        async def prep_async(self, shared: Shared) -> list[dict[str, int]]:
            return [{"student": student} for student in range(self.params["size"])]

        async def post_async(self, shared: Shared, prep_res: Any, exec_res: Any) -> str:
            shared["classes"][(self.params["school"], self.params["year"])] = len(prep_res)
            return "default"

    class Years(flow_base):
        async def prep_async(self, shared: Shared) -> list[dict[str, int]]:
            return [{"year": year, "size": 4 + year} for year in range(3)]

    class Schools(flow_base):
        async def prep_async(self, shared: Shared) -> list[dict[str, int]]:
            return [{"school": school} for school in range(7)]

    class Report(AsyncNode):
        async def post_async(self, shared: Shared, prep_res: Any, exec_res: Any) -> None:
            shared["average"] = sum(shared["grades"].values()) / len(shared["grades"])

    schools = Schools(start=Years(start=Students(start=Grade())))
    schools >> Report()
    shared: Shared = {"grades": {}, "classes": {}}
    await AsyncFlow(start=schools).run_async(shared)
    return shared


async def a_flow_as_a_node_of_a_flow(base: Base, flow_base: FlowBase) -> Shared:
    class Draft(base):
        async def prep_async(self, shared: Shared) -> list[str]:
            return shared["outline"]

        async def exec_async(self, section: str) -> str:
            return await ask(section)

        async def post_async(self, shared: Shared, prep_res: Any, exec_res_list: list[str]) -> str:
            shared["drafts"].append(exec_res_list)
            return "reviewed"

    class Review(AsyncNode):
        async def post_async(self, shared: Shared, prep_res: Any, exec_res: Any) -> str:
            shared["reviews"] += 1
            return "again" if shared["reviews"] < 3 else "publish"

    class Publish(Node):
        def post(self, shared: Shared, prep_res: Any, exec_res: Any) -> None:
            shared["published"] = shared["drafts"][-1]

    write = AsyncFlow(start=Draft())
    review = Review()
    write - "reviewed" >> review
    review - "again" >> write
    review - "publish" >> Flow(start=Publish())
    shared: Shared = {"outline": [f"section {n}" for n in range(9)], "drafts": [], "reviews": 0}
    shared["last action"] = await AsyncFlow(start=write).run_async(shared)
    return shared


async def a_sync_node_in_a_parallel_flow(base: Base, flow_base: FlowBase) -> Shared:
    class Parse(Node):
        def exec(self, _: Any) -> int:
            if self.params["number"] % 4 == 0 and self.cur_retry == 0:
                raise ValueError("once")
            return self.params["number"] ** 2

        def post(self, shared: Shared, prep_res: Any, exec_res: int) -> str:
            shared["squares"][self.params["number"]] = exec_res
            return "even" if exec_res % 2 == 0 else "odd"

    class Count(AsyncNode):
        async def post_async(self, shared: Shared, prep_res: Any, exec_res: Any) -> None:
            shared["even"] += 1

    class Numbers(flow_base):
        async def prep_async(self, shared: Shared) -> Any:
            return ({"number": number} for number in range(20))

    parse = Parse(max_retries=2)
    parse - "even" >> Count()
    parse - "odd" >> AsyncNode()
    shared: Shared = {"squares": {}, "even": 0}
    await Numbers(start=parse).run_async(shared)
    return shared


async def attributes_before_super_init(base: Base, flow_base: FlowBase) -> Shared:
    class Ask(base):
        def __init__(self, prefix: str, **kwargs: Any) -> None:
            self.prefix = prefix
            self.seen: list[int] = []
            super().__init__(**kwargs)

        async def prep_async(self, shared: Shared) -> Any:
            return shared["numbers"]

        async def exec_async(self, number: int) -> str:
            self.seen.append(number)
            return await ask(f"{self.prefix} {number}")

        async def post_async(self, shared: Shared, prep_res: Any, exec_res_list: Any) -> None:
            shared["answers"], shared["seen"] = exec_res_list, sorted(self.seen)

    class Users(flow_base):
        def __init__(self, start: Any, region: str) -> None:
            self.region = region
            super().__init__(start)

        async def prep_async(self, shared: Shared) -> Any:
            return [{"region": self.region}]

    shared: Shared = {"numbers": (1, 2, 3)}
    await Users(Ask("tell me", max_retries=2, wait=1), "eu").run_async(shared)
    return shared


async def overridden_run_async(base: Base, flow_base: FlowBase) -> Shared:
    class Timed:
        async def _run_async(self, shared: Shared) -> Any:
            shared["log"].append(f"{type(self).__name__} starts")
            try:
                return await super()._run_async(shared)  # type: ignore[misc]
            finally:
                shared["log"].append(f"{type(self).__name__} ends")

    class Ask(Timed, base):
        async def prep_async(self, shared: Shared) -> Any:
            return dict.fromkeys("abc", 1)

        async def _exec(self, items: Any) -> Any:
            return [f"{result}!" for result in await super()._exec(items)]

        async def exec_async(self, letter: str) -> str:
            return await ask(letter)

        async def post_async(self, shared: Shared, prep_res: Any, exec_res_list: Any) -> str:
            shared["letters"] = dict(zip(prep_res, exec_res_list, strict=True))
            return "done"

    class Once(Timed, flow_base):
        async def prep_async(self, shared: Shared) -> Any:
            return [{}]

    shared: Shared = {"log": []}
    shared["action"] = await Once(start=Ask()).run_async(shared)
    return shared


async def traced_by_patching_the_instance(base: Base, flow_base: FlowBase) -> Shared:
    class Ask(base):
        async def prep_async(self, shared: Shared) -> Any:
            return ["one", "three", "eleven"]

        async def exec_async(self, item: str) -> str:
            return await ask(item)

        async def post_async(self, shared: Shared, prep_res: Any, exec_res_list: Any) -> None:
            shared["answers"] = exec_res_list

    def trace(node: Any, spans: list[str]) -> Any:
        for name in ("prep_async", "exec_async", "post_async"):
            original = getattr(node, name)

            async def traced(*args: Any, original: Any = original, name: str = name) -> Any:
                result = await original(*args)
                spans.append(f"{name} {result}")
                return result

            setattr(node, name, traced)
        return node

    spans: list[str] = []
    shared: Shared = {}
    await AsyncFlow(start=trace(Ask(), spans)).run_async(shared)
    shared["spans"] = sorted(spans)
    return shared


async def handed_on_in_shared(base: Base, flow_base: FlowBase) -> Shared:
    """Each instance writes under one key, right before the next node's prep reads it."""

    class Choose(AsyncNode):
        async def exec_async(self, _: Any) -> None:
            await asyncio.sleep(self.params["number"] % 3)

        async def post_async(self, shared: Shared, prep_res: Any, exec_res: Any) -> None:
            shared["current"] = self.params["number"]

    class Work(base):
        async def prep_async(self, shared: Shared) -> Any:
            assert shared["current"] == self.params["number"]
            return [(shared["current"], n) for n in range(8)]

        async def exec_async(self, item: tuple[int, int]) -> int:
            await asyncio.sleep(1)
            return item[0] * 100 + item[1]

        async def post_async(self, shared: Shared, prep_res: Any, exec_res_list: Any) -> None:
            shared["done"][self.params["number"]] = shared["current"] = exec_res_list

    class Parts(flow_base):
        async def prep_async(self, shared: Shared) -> Any:
            return [{"part": part} for part in shared["current"]]

    class Part(AsyncNode):
        async def post_async(self, shared: Shared, prep_res: Any, exec_res: Any) -> None:
            shared["parts"].setdefault(self.params["number"], set()).add(self.params["part"])

    class Numbers(flow_base):
        async def prep_async(self, shared: Shared) -> Any:
            return [{"number": number} for number in range(9)]

    choose, work = Choose(), Work()
    choose >> work >> Parts(start=Part())
    shared: Shared = {"done": {}, "parts": {}}
    await Numbers(start=choose).run_async(shared)
    del shared["current"]
    return shared


async def context_and_copies(base: Base, flow_base: FlowBase) -> Shared:
    """What a run sets in its context reaches its calls; what a call sets reaches no other; nodes are copied and run at once."""
    trace: contextvars.ContextVar[str] = contextvars.ContextVar("trace", default="none")

    class Ask(base):
        async def prep_async(self, shared: Shared) -> Any:
            trace.set(shared["name"])
            return range(6)

        async def exec_async(self, item: int) -> str:
            before = trace.get()
            trace.set(f"call {item}")
            await asyncio.sleep(item % 2)
            return f"{before}, {trace.get()}"

        async def post_async(self, shared: Shared, prep_res: Any, exec_res_list: Any) -> None:
            shared["seen"] = [trace.get(), *exec_res_list]

    node = Ask()
    runs: list[Shared] = [{"name": f"run {number}"} for number in range(3)]
    nodes = [node, copy.copy(node), copy.deepcopy(node)]
    await asyncio.gather(*(each.run_async(shared) for each, shared in zip(nodes, runs, strict=True)))
    return {"runs": runs}


async def items_that_wait_for_earlier_ones(base: Base, flow_base: FlowBase) -> Shared:
    class Chain(base):
        async def prep_async(self, shared: Shared) -> Any:
            self.done = [asyncio.Event() for _ in range(25)]
            return range(25)

        async def exec_async(self, number: int) -> int:
            if number:
                await self.done[number - 1].wait()
            await asyncio.sleep(1)
            self.done[number].set()
            return number

        async def post_async(self, shared: Shared, prep_res: Any, exec_res_list: Any) -> None:
            shared["order"] = exec_res_list

    shared: Shared = {}
    await AsyncFlow(start=Chain()).run_async(shared)
    return shared


async def names_of_ones_own(base: Base, flow_base: FlowBase) -> Shared:
    """Attributes and methods that a program may well have, and that a throttled class has too."""

    class Ask(base):
        def __init__(self) -> None:
            super().__init__(max_retries=2)
            self.stats = {"calls": 0}
            self.limiter = self._limiter = asyncio.Semaphore(2)
            self.history: list[str] = []
            self._state = self._current = self._refused = self._bounds = self._adaptive = self._settle = "the program's own"

        async def prep_async(self, shared: Shared) -> Any:
            return ["a", "bb", "ccc"]

        async def _call(self, prompt: str) -> str:
            return f"{await ask(prompt)} from _call"

        async def exec_async(self, item: str) -> str:
            async with self.limiter:
                self.stats["calls"] += 1
                self.history.append(item)
                return await self._call(f"prompt {item}")

        async def post_async(self, shared: Shared, prep_res: Any, exec_res_list: Any) -> None:
            shared["answers"], shared["calls"], shared["asked"] = exec_res_list, self.stats["calls"], self.history

    class Once(flow_base):
        def __init__(self, start: Any) -> None:
            super().__init__(start=start)
            self.stats = {"instances": 0}
            self._state = self._limiter = self.history = "the program's own"

        async def prep_async(self, shared: Shared) -> Any:
            self.stats["instances"] += 1
            return [{}]

        async def post_async(self, shared: Shared, prep_res: Any, exec_res: Any) -> None:
            shared["instances"] = self.stats["instances"]

    shared: Shared = {}
    await Once(Ask()).run_async(shared)
    return shared


async def base_called_by_its_name(base: Base, flow_base: FlowBase) -> Shared:
    """PocketFlow's classes are named in __init__ too, where whoever swaps the base class may overlook them."""

    class Ask(base):
        def __init__(self) -> None:
            AsyncParallelBatchNode.__init__(self, max_retries=2, wait=1)

        async def prep_async(self, shared: Shared) -> Any:
            return ["a", "bb", "ccc"]

        async def exec_async(self, item: str) -> str:
            return await ask(item)

        async def post_async(self, shared: Shared, prep_res: Any, exec_res_list: Any) -> None:
            shared["answers"], shared["retries"] = exec_res_list, self.max_retries

    class Once(flow_base):
        def __init__(self, start: Any) -> None:
            AsyncParallelBatchFlow.__init__(self, start)

        async def prep_async(self, shared: Shared) -> Any:
            return [{}]

    shared: Shared = {}
    await Once(Ask()).run_async(shared)
    return shared


PROGRAMS = [
    map_reduce_summary,
    translate_into_languages,
    embed_chunks_through_failures,
    fallback_answers,
    the_error_of_a_batch,
    rag_indexing_and_query,
    agent_with_a_loop,
    nested_batch_flows,
    a_flow_as_a_node_of_a_flow,
    a_sync_node_in_a_parallel_flow,
    attributes_before_super_init,
    overridden_run_async,
    traced_by_patching_the_instance,
    handed_on_in_shared,
    context_and_copies,
    items_that_wait_for_earlier_ones,
    names_of_ones_own,
    base_called_by_its_name,
]
