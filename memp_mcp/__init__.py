"""Procedural memory for AI agents, over MCP (Memp, arXiv 2508.06433).

The house, in the order in which a request walks through it; imports run the same way, never back::

    __main__.py   python -m memp_mcp; a client that speaks stdio meets front.py, a person cli.py
    front.py      the first half second: answers the MCP handshake by handshake.py from catalogue.json, then hands
                  over to stdio.py; catalogue.py makes that file from what the SDK's server says
    hook.py       memp-mcp hook: what the clients' hooks run; asks a running server by local.py, the socket's two ends
    cli.py        argv + environment → Settings → serve | import | export | show …: the command line;
                  commands.py what each command does
    serving.py    Settings → Memory → server, on stdio or HTTP
    demo.py       memp-mcp demo: one agent fails, a second one succeeds, all of it for real
    web.py        serves it over HTTP: who may come in, request ids, health; team.py rate limits and metrics
    server.py     build_server(memory) → MCPServer: names, schemas, wording; takes no decision
    sessions.py   what a server does at the events of its clients' sessions: recall at a prompt, learn at the end;
                  shown.py what a session has been shown, and what waits to be said in it
    memory.py     Memory: recall, record, reflect, get, forget, restore; the one deep object
    joining.py    install, uninstall: the files of this machine's clients changed, and changed back; joined.py which
                  are joined, and when last heard of
    entries.py    what stands of this program in the text of a client's configuration, and the edits, by json_edit.py
                  and toml_edit.py; clients.py where each client keeps what, and in which form
    archive.py    the memory in bulk: import, its preview, export; bootstrap.py a cold start; rebuild.py what can be
                  derived again from the evidence
    skill_folders.py  verified procedures as Agent Skills in folders and over MCP, and how those stand to the memory;
                  skills.py a procedure ↔ its SKILL.md
    backup.py     the whole memory in one file that was read back
    repair.py     what is wrong with a memory, and mending it; salvage.py brings back what is left of damaged tables
    answers.py    the lean answers that agents read, within a budget of tokens
    ledger.py     what the recorded episodes say about the memory's benefit; intervals.py rates and means with theirs
    report.py     the ledger as one HTML page with curves; sheets.py as tables, for the page and the terminal
    record.py     how an episode is recorded; reflect.py how a failure is reflected on
    lookup.py     what the memory has under an id; vectors.py the vectors that things are compared by
    update.py     Episode → changes (Update); adjust.py corrections of what failed: pure decisions
    revisions.py  how a procedure becomes its next snapshot, and how two of them differ
    judge.py      Trajectory → Reward, where the environment gave none: rules, then an LLM; undone.py whether the work
                  was taken back, opinions.py what the user's next words say about it
    build.py      Trajectory → Procedure (Build)
    retrieve.py   keys and ranking (Retrieve)
    transcripts/  one file a format: other programs' transcripts → Trajectory
    state.py      the observed state: what a run's own looks show before and after, and how alike two states are
    evidence.py   what code alone can read off a trajectory: failed steps, transient faults, detours
    keys.py       what a text is looked up by: tokens, key phrases
    llm.py        LLM protocol; Anthropic; OpenAI-compatible (GPT, Qwen, a local server)
    embedder.py   Embedder protocol and the real ones; minilm.py the default one's forward pass, in numpy
    redact.py     secrets out, before anything is stored; scrub.py out of what is stored already
    hazards.py    what a recalled step might do: dangerous commands, text that gives its reader orders
    store.py      the memory on disk: lock, commits, recovery; reading.py what it can be asked
    tables.py     LanceDB itself: reading, commits, indexes, compaction; rows.py what stands in the tables, and filters;
                  faults.py what LanceDB raises, as errors that say what to do
    bucket.py     the memory on object storage: the same tables, a lease in the place of the lock, which rests on
                  control.py, a table of texts
    files.py      files that are there as a whole or not at all
    upkeep.py     what the tables say about each other: behind, begun, doubled, astray; and their size
    resident.py   the vectors of a small memory, held by the process; tally.py the counts
    waiting.py    what was recalled lately, in small files until the next write takes it into the table
    lean.py       what a process does without, of the libraries it loads
    tokens.py     bearer tokens: made, listed, revoked; kept as hashes
    settings.py   MEMP_* → one frozen Settings
    models.py     Step, Trajectory, Reward, Procedure, Change, Event …
    errors.py     the MempError tree

Importing this package loads none of them: the handshake has to be answered before pydantic is.
"""

__version__ = "0.1.0"
