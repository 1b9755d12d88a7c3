"""What may be recorded, and what follows from it: units of work on the store, and who is woken when they are durable.

To read it: :mod:`.service` has the commands, each of which uses a :mod:`.recorder` to append; :mod:`.events` says what follows from
a record. :mod:`.writer` runs such units in transactions; :mod:`.watch` wakes those who wait for what they record. What workers tell
is recorded by :mod:`.execution`, :mod:`.presence` and :mod:`.recovery`.
"""
