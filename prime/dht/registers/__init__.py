"""Registers: single values that several writers change one at a time, each only if it knows what it replaces.

A publisher's register is kept by a few electors. What holds, and what does not, is in `spec/protocols/register.md`;
`proposal` has what is signed, `elector` and `operation` are the two pure cores, `answering` and `acting` their shells.
"""
