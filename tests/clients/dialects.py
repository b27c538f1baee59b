"""The official SDKs against a running server, with the real model: `dialects.py URL COLLECTION`.

The collection holds a document that says that the harbour was founded in 1742. Ends with status 0 and the last line
`passed N checks` if everything holds.
"""

import json
import sys

import anthropic
import openai

url, collection = sys.argv[1], sys.argv[2]
claude = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
gpt = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
checks = 0


def check(holds, *about):
    global checks
    assert holds, about
    checks += 1


models = [model.id for model in gpt.models.list()]
check(f"edgewise/{collection}" in models, models)
check([model.id for model in claude.models.list()] == models, models)
check(gpt.models.retrieve(f"edgewise/{collection}").id == f"edgewise/{collection}")
engine = models[0]
embedder = models[1]

# Two turns of a growing conversation, each with a breakpoint behind its last message.
rules = "You are the clerk of a small harbour. " + "Be polite, be brief, and never guess a number. " * 12
system = [{"type": "text", "text": rules, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]


def said(role, text, keep=False):
    block = {"type": "text", "text": text}
    if keep:
        block["cache_control"] = {"type": "ephemeral"}
    return {"role": role, "content": [block]}


# A parameter of the API that this SDK has no argument for.
greedily = {"temperature": 0}
question = "A ferry leaves every forty minutes. " * 6 + "How often does the ferry leave?"
first = claude.messages.with_raw_response.create(
    model=engine, max_tokens=24, system=system, messages=[said("user", question, keep=True)], extra_body=greedily
)
check(first.headers["x-edgewise-cache-skipped-breakpoints"] == "0", first.headers)
first = first.parse()
usage = first.usage
check(usage.cache_read_input_tokens == 0 and usage.cache_creation.ephemeral_1h_input_tokens > 100, usage)
check(usage.cache_creation.ephemeral_5m_input_tokens > 40, usage)
written = usage.cache_creation_input_tokens
check(written == usage.cache_creation.ephemeral_1h_input_tokens + usage.cache_creation.ephemeral_5m_input_tokens)
answer = first.content[0].text
history = [said("user", question), said("assistant", answer), said("user", "Say it once more.", keep=True)]
second = claude.messages.create(model=engine, max_tokens=24, system=system, messages=history, extra_body=greedily)
check(second.usage.cache_read_input_tokens >= written, second.usage, usage)
check(second.usage.cache_creation.ephemeral_1h_input_tokens == 0, second.usage)
check(0 < second.usage.cache_creation.ephemeral_5m_input_tokens < 100, second.usage)

# With every turn one more breakpoint, up to the four there may be: each turn reads all that the one before wrote.
turns, known = [said("user", "Once more from the start. " + question, keep=True)], 0
for more in ["Say it once more.", "Is that often?", "Who told you?"]:
    told = claude.messages.create(model=engine, max_tokens=12, system=system, messages=turns, extra_body=greedily)
    check(told.usage.cache_read_input_tokens >= max(known, 100), told.usage, known)
    check(told.usage.cache_creation_input_tokens > 0, told.usage)
    known = told.usage.cache_read_input_tokens + told.usage.cache_creation_input_tokens
    turns += [said("assistant", told.content[0].text), said("user", more, keep=True)]
check(known > written, known, written)
try:
    claude.messages.create(model=engine, max_tokens=12, system=system, messages=turns)
    check(False, "a fifth breakpoint")
except anthropic.BadRequestError as refused:
    check("cache_control" in refused.body["error"]["message"], refused)

# Streams give what the whole gives.
with claude.messages.stream(
    model=engine, max_tokens=24, system=system, messages=[said("user", question)], extra_body=greedily
) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
check(text == answer and final.content[0].text == answer, text, answer)
check(final.usage.cache_read_input_tokens > 100 and final.usage.output_tokens == first.usage.output_tokens, final.usage)
counted = claude.messages.count_tokens(model=engine, system=system, messages=[said("user", question)])
total = usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
check(counted.input_tokens == total, counted, usage)

# A demanded call matches the schema, whatever the model would have said.
tool = {
    "name": "departure",
    "description": "Tells when the ferry leaves",
    "input_schema": {
        "type": "object",
        "properties": {"island": {"enum": ["north", "south"]}},
        "required": ["island"],
        "additionalProperties": False,
    },
}
called = claude.messages.create(
    model=engine,
    max_tokens=64,
    tools=[tool],
    tool_choice={"type": "tool", "name": "departure"},
    messages=[said("user", "When does the ferry to the north island leave?")],
)
check(called.stop_reason == "tool_use" and called.content[0].type == "tool_use", called)
check(called.content[0].name == "departure" and called.content[0].input["island"] in ("north", "south"), called)

for wrong, error in [
    ({"model": "none"}, anthropic.NotFoundError),
    ({"extra_body": {"temperature": 3.0}}, anthropic.BadRequestError),
    ({"system": system * 5}, anthropic.BadRequestError),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, anthropic.BadRequestError),
]:
    request = {"model": engine, "max_tokens": 2000, "messages": [said("user", "x")], **wrong}
    try:
        claude.messages.create(**request)
        check(False, wrong)
    except error as refused:
        check(refused.body["error"]["message"], refused)

# OpenAI: samples, probabilities, seeds, stops, formats.
chat = [{"role": "system", "content": rules}, {"role": "user", "content": "Count from one to five."}]
greedy = gpt.chat.completions.create(model=engine, messages=chat, temperature=0, max_completion_tokens=16, logprobs=True)
tokens = greedy.choices[0].logprobs.content
check(len(tokens) == greedy.usage.completion_tokens and all(token.logprob <= 1e-6 for token in tokens), tokens)
check("".join(token.token for token in tokens) == greedy.choices[0].message.content, tokens)
again = gpt.chat.completions.create(model=engine, messages=chat, temperature=0, max_completion_tokens=16)
check(again.choices[0].message.content == greedy.choices[0].message.content)
check(again.usage.prompt_tokens_details.cached_tokens > 100, again.usage)
seeded = [
    gpt.chat.completions.create(model=engine, messages=chat, seed=7, n=2, max_completion_tokens=12) for _ in range(2)
]
check([c.message.content for c in seeded[0].choices] == [c.message.content for c in seeded[1].choices], seeded)
check(len(seeded[0].choices) == 2)
whole = greedy.choices[0].message.content
stop = whole.split()[2]
stopped = gpt.chat.completions.create(model=engine, messages=chat, temperature=0, max_completion_tokens=16, stop=[stop])
check(stopped.choices[0].finish_reason == "stop", stopped)
check(stopped.choices[0].message.content == whole[: whole.index(stop)], stopped, whole)
schema = {
    "type": "object",
    "properties": {"minutes": {"type": "integer"}, "sure": {"type": "boolean"}},
    "required": ["minutes", "sure"],
    "additionalProperties": False,
}
formed = gpt.chat.completions.create(
    model=engine,
    messages=[{"role": "user", "content": "How many minutes are between two ferries?"}],
    max_completion_tokens=60,
    temperature=0,
    response_format={"type": "json_schema", "json_schema": {"name": "interval", "schema": schema, "strict": True}},
)
if formed.choices[0].finish_reason == "stop":
    check(set(json.loads(formed.choices[0].message.content)) == {"minutes", "sure"}, formed)
chunks = list(
    gpt.chat.completions.create(
        model=engine,
        messages=chat,
        temperature=0,
        max_completion_tokens=16,
        stream=True,
        stream_options={"include_usage": True},
    )
)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
check(streamed == whole, streamed, whole)
check(chunks[-1].usage.completion_tokens == greedy.usage.completion_tokens, chunks[-1])

vectors = gpt.embeddings.create(model=embedder, input=["The harbour was founded in 1742.", "Founding of the port"]).data
floats = gpt.embeddings.create(model=embedder, input="Founding of the port", encoding_format="float").data
check(max(abs(a - b) for a, b in zip(vectors[1].embedding, floats[0].embedding)) < 1e-5)
check(0.2 < sum(a * b for a, b in zip(vectors[0].embedding, vectors[1].embedding)) < 1.0)

# A collection as a model, over two turns, in both dialects.
ask = {"role": "user", "content": "When was the harbour of Westmar founded?"}
model = f"edgewise/{collection}"
told = gpt.chat.completions.create(model=model, messages=[ask], max_completion_tokens=40)
message = told.choices[0].message
check("1742" in message.content, message)
check(message.annotations and message.annotations[0].url_citation.url, message)
follow_up = [ask, {"role": "assistant", "content": message.content}, {"role": "user", "content": "By whom?"}]
told = gpt.chat.completions.create(model=model, messages=follow_up, max_completion_tokens=40)
check(told.usage.prompt_tokens_details.cached_tokens > 0, told.usage)
forced = gpt.chat.completions.create(
    model=model, messages=[ask], max_completion_tokens=40, extra_body={"edgewise": {"route": "full"}}
)
check(forced.model_extra["edgewise"]["route"] == "full", forced)
with claude.messages.stream(model=model, max_tokens=40, messages=[ask]) as stream:
    final = stream.get_final_message()
check("1742" in final.content[0].text and final.content[0].citations[0].cited_text, final)
try:
    gpt.chat.completions.create(model="edgewise/nowhere", messages=[ask])
    check(False)
except openai.NotFoundError as refused:
    check(refused.code == "model_not_found", refused)

print(f"passed {checks} checks")
