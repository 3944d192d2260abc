"""What is changed of MONAI Label itself, each with its reason; all of it for version 0.8.5.

- `async_tasks.py`, what `AsyncTask` answers with: tasks that threads change while they are written as JSON.
- `batch_infer.py`, instead of its `BatchInferTask`: that divides by the number of GPUs, and one bad study ends all.
- `log_routes.py`, instead of `/logs/`: its page runs scripts of other sites, and the log breaks off where it grows.
- `login.py`, instead of `POST /auth/token`: no token is ever accepted with today's PyJWT.
- `ohif.py`, instead of `GET /ohif/{path}`: paths are joined with `os.pathsep`, so that whatever lies in a sub-folder is
  the start page.
- `proxy.py`, instead of `/proxy/dicom/...`: that drops the query, waits in the event loop, and `..` leads elsewhere.
- `random_strategy.py`, instead of the strategy `random`: that divides by the seconds since a study was last given.
- `server.py`, on `monailabel.app.app`: an app has no hook for routes or middleware, and CORS allows every site.
- `settings.py`: defaults with which it does not work today; each is named there.
- `stock_routes.py`, instead of every endpoint: coroutines that compute, so that nobody is answered meanwhile.

A newer MONAI Label is tried by deleting one file after the other. What an app may override (datastores, tasks,
trainers, strategies of its own) is no patch and stands with its subject.
"""
