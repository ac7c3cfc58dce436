"""Uses LiteLLM as a library and prints what it saw as one JSON object.

    OPENAI_API_KEY=… litellm_sdk.py API_BASE
"""

import json
import os
import sys

# Its table of prices is not to be fetched.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402

MODEL = "openai/grok-4"
MESSAGES = [{"role": "user", "content": "Say something."}]


def main():
    options = {"model": MODEL, "api_base": sys.argv[1], "num_retries": 0, "timeout": 30}
    chat = litellm.completion(messages=MESSAGES, **options)
    stream = litellm.completion(messages=MESSAGES, stream=True, **options)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream]
    seen = {
        "text": chat.choices[0].message.content,
        "completion_tokens": chat.usage.completion_tokens,
        "streamed": "".join(parts),
    }
    print(json.dumps(seen))


main()
