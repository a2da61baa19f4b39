"""Compiles Services into pools, frontends and verdicts. Pure.

`service` plans one Service, from `endpoints` (what slices say together), `policy` (who may use which of them),
`frontends` (which addresses it asks for), `listens` (those of the user's choice), `pools` and `tuning` (annotations).
`claims` settles what concerns several Services at once.
"""
