"""Conversations as text: formats, tokens within a budget, and features computed by counting. This
package knows nothing about models."""
