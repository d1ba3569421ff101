"""Translate a document into many languages, as fast as the API allows and no faster."""

import argparse
import asyncio
import io
import sys
import time
from pathlib import Path

from pocketflow import AsyncFlow, AsyncParallelBatchNode
from utils import PROVIDERS, SetupError, make_call_llm, make_mock

from pocketflow_throttled import ThrottledParallelBatchNode

LANGUAGES = ["Chinese", "Spanish", "Japanese", "German", "Russian", "Portuguese", "French", "Korean"]
LIMITS = {"max_concurrent": 3, "max_per_minute": 60}


class Translating:
    """What both nodes do: one prompt a language."""

    async def prep_async(self, shared):
        return [f"Translate into {language}.\n\n{shared['document']}" for language in shared["languages"]]

    async def exec_async(self, prompt):
        return await self.call_llm(prompt)

    async def exec_fallback_async(self, prompt, exc):
        return exc

    async def post_async(self, shared, prep_res, exec_res_list):
        shared["translations"] = dict(zip(shared["languages"], exec_res_list, strict=True))


class Translate(Translating, ThrottledParallelBatchNode):
    max_concurrent = LIMITS["max_concurrent"]
    max_per_minute = LIMITS["max_per_minute"]
    max_tokens_per_minute = 30_000


class TranslateAtOnce(Translating, AsyncParallelBatchNode):
    """PocketFlow's own, for comparison."""


def translate(node, call_llm, document, languages):
    node.call_llm = call_llm
    shared = {"document": document, "languages": languages}
    began = time.perf_counter()
    asyncio.run(AsyncFlow(start=node).run_async(shared))
    return shared["translations"], time.perf_counter() - began


def report(title, translations, seconds, mock):
    failed = [language for language, text in translations.items() if not isinstance(text, str)]
    line = f"{title}: {len(translations) - len(failed)} of {len(translations)} translated in {seconds:.1f} s"
    if mock is not None:
        line += f"; refused calls: {mock.refused}, most at once: {mock.peak_concurrent}"
    print(line)
    for language in failed:
        print(f"  {language}: {translations[language]}")
    return failed


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--provider", choices=PROVIDERS, default="mock", help="whom to ask (default: a mock, no key needed)")
    parser.add_argument("--languages", default=",".join(LANGUAGES), help="comma-separated (default: eight)")
    parser.add_argument("--input", type=Path, default=Path(__file__).parent / "document.md", help="the text to translate")
    parser.add_argument("--output", type=Path, help="a folder to write the translations to")
    parser.add_argument("--compare", action="store_true", help="also run the batch unthrottled (mock only)")
    args = parser.parse_args()
    args.languages = list(dict.fromkeys(language.strip() for language in args.languages.split(",") if language.strip()))
    if not args.languages:
        parser.error("--languages names no language")
    unwritable = [language for language in args.languages if Path(language).name != language]
    if unwritable and args.output is not None:
        parser.error(f"--output has a file for each language, and {unwritable[0]!r} cannot be the name of one")
    if args.compare and args.provider != "mock":
        parser.error("--compare would throw paid calls away; it goes with --provider mock")
    return args


def main():
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal knows every language
    args = arguments()
    document = args.input.read_text(encoding="utf-8")
    if not document.strip():
        raise SetupError(f"{args.input} is empty")
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)  # or what is paid for may not be kept
    mock = make_mock(max_concurrent=3, max_per_window=60) if args.provider == "mock" else None
    node = Translate(max_retries=3, wait=1)
    call_llm = make_call_llm(args.provider, mock, node.limiter)
    asked = f"{len(args.languages)} languages, {LIMITS['max_concurrent']} at once and {LIMITS['max_per_minute']} a minute"
    print(f"Asking {args.provider} for {asked}.")
    translations, seconds = translate(node, call_llm, document, args.languages)
    if args.output is not None:
        for language, text in translations.items():
            if isinstance(text, str):
                (args.output / f"{language}.md").write_text(text, encoding="utf-8")
    failed = report("Throttled", translations, seconds, mock)
    for language, text in translations.items():
        if isinstance(text, str):
            print(f"  {language}: {len(text)} characters, {text[:60]!r}...")
    if args.compare:
        unthrottled = make_mock(max_concurrent=3, max_per_window=60)
        report(
            "Unthrottled",
            *translate(TranslateAtOnce(), make_call_llm("mock", unthrottled), document, args.languages),
            unthrottled,
        )
    if failed or (mock is not None and mock.refused):
        print(f"It did not hold: {len(failed)} lost" + (f", {mock.refused} refused." if mock is not None else "."))
        return 1
    print(("Throttled, nothing" if args.compare else "Nothing") + " was lost" + (" or refused." if mock is not None else "."))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (SetupError, OSError, UnicodeDecodeError) as error:
        print(f"main.py: {error}", file=sys.stderr)
        sys.exit(2)
