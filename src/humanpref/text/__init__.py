"""Conversations as text: formats, tokens within a budget, and features that can be counted. This
package knows nothing about models."""
