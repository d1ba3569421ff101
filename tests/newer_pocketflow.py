"""A double of PocketFlow's newer source, whose retry counter is an attribute that concurrent items share."""

import asyncio
from typing import Any


async def newer_exec(self: Any, prep_res: Any) -> Any:
    for self.cur_retry in range(self.max_retries):
        try:
            return await self.exec_async(prep_res)
        except Exception as error:
            if self.cur_retry == self.max_retries - 1:
                return await self.exec_fallback_async(prep_res, error)
            if self.wait > 0:
                await asyncio.sleep(self.wait)
    return None
