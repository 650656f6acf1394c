// Package sikkerapi is a client of SikkerAPI, the threat intelligence service: its blacklist, bulk reports, the check of
// one address and the state of the account.
//
// A Client asks once and says what happened. When to ask again, and what to do meanwhile, is the caller's business; the
// errors are made for that decision:
//
//   - [ErrUnauthorized] (inside an *[APIError]): the key is missing, invalid, disabled or expired. Nothing changes until
//     the key does.
//   - *[QuotaError]: the endpoint's daily quota is spent. Wait for RetryAfter.
//   - *[TemporaryError]: no answer, an answer cut short, a 5xx, a limit of requests at a time, or a refusal that is not the
//     API's own, as of a CDN. Try again later, not sooner than RetryAfter.
//   - *[APIError]: any other answer that is not 200, redirects ([ErrRedirect]) among them, which are never followed.
//   - *[TooLargeError], [ErrDecompress], [ErrMalformed]: an answer that is not what this package was made for.
//   - the context's error, when the caller's context ended.
//
// Check, Status and BulkReport end by themselves after two minutes. Blacklist and BlacklistJSON may move many megabytes,
// and only the caller knows how slow is too slow: their context governs until the body is closed, so give it a deadline.
//
// The API is not trusted. Every answer is capped after decompression, and text that came from outside is in a field, or
// quoted and cut in an error. The key travels in the Authorization header of requests to the base URL and nowhere else;
// no error, and no way of printing a Client, shows it.
//
// A Client is safe for concurrent use.
package sikkerapi
