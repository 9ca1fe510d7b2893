"""One question to a chat model, in each of the ways that LangChain has."""

from __future__ import annotations

import asyncio
import functools
import operator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import BaseMessage


async def ask(model: BaseChatModel, way: str, text: str = "hello") -> BaseMessage:
    """The answer, a stream's put together; ``way`` is ainvoke, invoke, astream or stream."""
    if way == "ainvoke":
        return await model.ainvoke(text)
    if way == "invoke":
        return await asyncio.to_thread(model.invoke, text)
    if way == "astream":
        return functools.reduce(operator.add, [chunk async for chunk in model.astream(text)])
    return functools.reduce(operator.add, await asyncio.to_thread(list, model.stream(text)))
