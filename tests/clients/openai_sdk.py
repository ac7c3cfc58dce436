"""Uses the OpenAI SDK as its users do and prints what it saw as one JSON object.

    OPENAI_API_KEY=… openai_sdk.py BASE_URL CASE
"""

import json
import os
import sys

import openai

MODEL = "grok-4"
PROMPT = "Say something."


def models(client):
    listed = [model.id for model in client.models.list()]
    return {"listed": listed, "retrieved": client.models.retrieve(MODEL).id}


def chat(client):
    completion = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": PROMPT}]
    )
    choice = completion.choices[0]
    return {
        "text": choice.message.content,
        "finish_reason": choice.finish_reason,
        "completion_tokens": completion.usage.completion_tokens,
    }


def chat_stream(client):
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": PROMPT}],
        stream=True,
        stream_options={"include_usage": True},
    )
    text, finish_reason, usage, chunks = "", None, None, 0
    for chunk in stream:
        chunks += 1
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish_reason = choice.finish_reason or finish_reason
        usage = chunk.usage or usage
    return {
        "text": text,
        "chunks": chunks,
        "finish_reason": finish_reason,
        "completion_tokens": usage.completion_tokens,
    }


def responses(client):
    response = client.responses.create(model=MODEL, input=PROMPT)
    return {
        "text": response.output_text,
        "status": response.status,
        "output_tokens": response.usage.output_tokens,
    }


def responses_stream(client):
    text, types, final = "", [], None
    for event in client.responses.create(model=MODEL, input=PROMPT, stream=True):
        types.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
        elif event.type == "response.completed":
            final = event.response.output_text
    return {"text": text, "first": types[0], "last": types[-1], "final": final}


def error(client):
    try:
        client.models.list()
    except openai.APIStatusError as refusal:
        return {
            "class": type(refusal).__name__,
            "status": refusal.status_code,
            "code": refusal.code,
            "type": refusal.type,
            "message": refusal.message,
            "request_id": refusal.request_id,
        }
    return {}


CASES = [models, chat, chat_stream, responses, responses_stream, error]


def main():
    base_url, name = sys.argv[1:]
    api_key = os.environ["OPENAI_API_KEY"]
    cases = {case.__name__: case for case in CASES}
    # A retry would hide an answer that should not have come.
    with openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=30) as client:
        print(json.dumps(cases[name](client)))


main()
