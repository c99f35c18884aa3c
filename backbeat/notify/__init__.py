"""Telling people what waits for them: from the table `notifications` to mail, chat and webhooks.

A process of its own runs it (`backbeat notify send`): it alone holds the channels' secrets and needs the way out, and a
mail server that hangs holds up nothing but its own channel. What is told is committed with the decision it is about.
"""
