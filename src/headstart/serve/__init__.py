"""A saved run as a service: HTTP routes, the Open Inference Protocol, and a web page. Needs ``headstart[serve]``.

What this package offers is imported from its modules: `headstart.serve.app.create_app`, `headstart.serve.limits.Limits` and
`headstart.serve.run_server.serve`. Nothing is imported here, so that the limits can be read without FastAPI.
"""
