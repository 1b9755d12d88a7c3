"""The command line: reads what is asked, asks the agent, shows the answer. Never opens the store.

It begins in ``main.run``; a module holds the commands on one noun.
"""
