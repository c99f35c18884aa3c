"""The simulated provider, room by room, in the order a request walks through them.

    server          a loopback server whose handlers may cut their own connection
    wire_anthropic  the bytes of Anthropic Messages, both ways
    wire_openai     the bytes of OpenAI Responses, both ways
    wire_chat       the bytes of Chat Completions, both ways
    exchange        what the wires have in common: an `Ask` in, an `Answer` out
    faults          what goes wrong, by header, by script or by rate
    latency         how long an answer takes
    tokens, cache   what it costs: a token count, and which prefix of it was cached
    skill           how much of the prompt its model takes in
    diff, rules     what there is to say about the diff in the prompt
    payment         what there is to say about a card payment in it
    answer, schema  those findings as prose, or as the object that the JSON schema asks for
    log             the request log, written before anything is answered

No model is involved anywhere: every answer follows from its prompt by rules that can be read here.
"""
